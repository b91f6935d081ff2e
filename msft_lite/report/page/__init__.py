"""The report as one web page in one file, and the same page served while a run goes on."""

from __future__ import annotations

from pathlib import Path

from msft_lite.report.page.material import read_material
from msft_lite.report.page.render import page_html
from msft_lite.report.whole import write_whole

PAGE_NAME = "report.html"


def write_page(run_folder: Path) -> Path:
    """Writes report.html into ``run_folder``, for a run that is finished or not.

    A reader of the file sees the old page or the whole new one.

    Returns:
        The path of the page.

    Raises:
        LedgerError: the ledger is missing or damaged.
        OSError: the file cannot be written.
    """
    path = run_folder / PAGE_NAME
    write_whole(path, page_html(read_material(run_folder)))
    return path

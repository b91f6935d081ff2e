from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from msft_lite.errors import AddressError, OutputFolderError
from msft_lite.report.page.serve import page_server

Builder = Any
SECONDS = 30  # longest that a lost answer may hold up a test


@contextmanager
def served(folder: Path) -> Iterator[int]:
    with page_server(folder) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def ask(
    port: int, path: str = "/", *, method: str = "GET", host: str | None = None
) -> tuple[int, Mapping[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request(method, path, headers={} if host is None else {"Host": host})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()
    finally:
        connection.close()


def version(port: int) -> str:
    return json.loads(ask(port, "/state")[2])["version"]


def test_a_row_that_is_appended_shows(three_tasks: Builder, tmp_path: Path) -> None:
    *begun, last = three_tasks.rows
    three_tasks.rows = begun
    three_tasks.write(tmp_path)
    with served(tmp_path) as port:
        status, _, before = ask(port)
        first = version(port)
        assert status == 200
        assert f'data-version="{first}"' in before
        assert "Not finished" in before
        assert version(port) == first
        with (tmp_path / "ledger.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(last) + "\n")
        second = version(port)
        assert second != first
        after = ask(port)[2]
        assert f'data-version="{second}"' in after
        assert "Finished: returned is roll-out 3, mark 4." in after


def test_before_the_run_begins_the_page_waits(three_tasks: Builder, tmp_path: Path) -> None:
    with served(tmp_path) as port:
        status, _, text = ask(port)
        assert status == 200
        assert "cannot read the ledger" in text
        three_tasks.write(tmp_path)
        assert "Finished" in ask(port)[2]


def test_the_page_is_made_once_for_every_version(three_tasks: Builder, tmp_path: Path) -> None:
    three_tasks.write(tmp_path)
    with served(tmp_path) as port:
        page = ask(port)[2]
        ledger = tmp_path / "ledger.jsonl"
        before = ledger.stat()
        ledger.write_text(
            ledger.read_text().replace("stopped by the guard", "stopped by the GUARD")
        )
        os.utime(ledger, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert ask(port)[2] == page  # the same size and time: nobody looks inside
        os.utime(ledger, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000_000))
        assert "stopped by the GUARD" in ask(port)[2]


@pytest.mark.parametrize(
    "path", ["/ledger.jsonl", "/../ledger.jsonl", "/?x", "/state/", "/%2e%2e/etc/passwd"]
)
def test_every_other_path_is_nothing(three_tasks: Builder, tmp_path: Path, path: str) -> None:
    with served(three_tasks.write(tmp_path)) as port:
        status, _, text = ask(port, path)
        assert (status, text) == (404, "There is nothing here.\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
def test_every_other_method_is_refused(three_tasks: Builder, tmp_path: Path, method: str) -> None:
    with served(three_tasks.write(tmp_path)) as port:
        status, headers, _ = ask(port, method=method)
        assert status == 404
        assert headers["Connection"] == "close"


@pytest.mark.parametrize("path", ["/", "/state"])
@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost:1", ""]
)
def test_a_foreign_name_for_this_machine_is_refused(
    three_tasks: Builder, tmp_path: Path, host: str, path: str
) -> None:
    with served(three_tasks.write(tmp_path)) as port:
        status, _, text = ask(port, path, host=host)
        assert status == 403
        assert "version" not in text


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_this_machine_has_two_names(three_tasks: Builder, tmp_path: Path, name: str) -> None:
    with served(three_tasks.write(tmp_path)) as port:
        assert ask(port, "/state", host=f"{name}:{port}")[0] == 200


def test_answers_forbid_what_the_page_does_not_need(three_tasks: Builder, tmp_path: Path) -> None:
    with served(three_tasks.write(tmp_path)) as port:
        _, headers, _ = ask(port)
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "connect-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_only_this_machine_is_listened_to(tmp_path: Path) -> None:
    with page_server(tmp_path) as server:
        assert server.server_address[0] == "127.0.0.1"


def test_a_browser_that_hangs_up_is_no_fault(
    three_tasks: Builder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with served(three_tasks.write(tmp_path)) as port:
        rude = socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
        linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"  # on, 0 seconds: closing resets
        rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        rude.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        rude.close()
        assert ask(port)[0] == 200
    assert capsys.readouterr() == ("", "")


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with page_server(tmp_path) as server:
        port = server.server_address[1]
        with pytest.raises(AddressError, match=f"port {port} of 127.0.0.1 cannot be used"):
            page_server(tmp_path, port=port)


def test_a_folder_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputFolderError, match="missing is not a folder"):
        page_server(tmp_path / "missing")


def test_the_command_serves_until_it_is_stopped(three_tasks: Builder, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "msft_lite", "report", str(three_tasks.write(tmp_path))]
    # A job in the background of a script has Ctrl-C ignored, and its children would have it so too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        [*command, "--watch"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        port = int(line.split("/")[2].split(":")[1])
        assert "Finished" in ask(port)[2]
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=SECONDS)
    assert (rest, errors, process.returncode) == ("stopped\n", "", 0)
    assert not (tmp_path / "report.html").exists()


def test_a_port_alone_is_a_mistake(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "msft_lite", "report", str(tmp_path), "--port", "8000"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--port is for --watch" in done.stderr

"""Serves the page of a run to this machine's browsers and keeps it up to date."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import BaseServer
from threading import Lock
from typing import Any, cast

from msft_lite.errors import AddressError, LedgerError, OutputFolderError
from msft_lite.report.page.material import read_material, version_of
from msft_lite.report.page.render import notice_html, page_html, policy

_ADDRESS = "127.0.0.1"  # of this machine alone
_NAMES = ("127.0.0.1", "localhost")
_IDLE_SECONDS = 10  # a connection that says nothing is closed


class LivePage:
    """The page of a run folder, made anew only after one of its files has changed."""

    def __init__(self, folder: Path) -> None:
        """Makes nothing yet."""
        self._folder = folder
        self._lock = Lock()
        self._version = ""
        self._page = ""

    def state(self) -> str:
        """Returns the version that the page would have now, as JSON."""
        return json.dumps({"version": version_of(self._folder)})

    def page(self) -> str:
        """Returns the page; a ledger that cannot be read is told on it, as it may yet come."""
        with self._lock:
            # Taken before the files are read: a change meanwhile makes the next version differ.
            version = version_of(self._folder)
            if version != self._version:
                self._page = self._made(version)
                self._version = version
            return self._page

    def _made(self, version: str) -> str:
        try:
            return page_html(read_material(self._folder), version=version)
        except LedgerError as error:
            return notice_html("There is nothing to show yet", str(error), version=version)


class PageHandler(BaseHTTPRequestHandler):
    """Answers ``GET /`` with the page and ``GET /state`` with its version, and nothing else."""

    timeout = _IDLE_SECONDS
    protocol_version = "HTTP/1.1"
    server_version = "msft-lite"
    sys_version = ""

    def __init__(self, live: LivePage, request: Any, client: Any, server: BaseServer) -> None:
        """Serves ``live``; the rest is the server's."""
        self._live = live
        super().__init__(request, client, server)

    def handle(self) -> None:
        """Answers one connection; a browser that hangs up is no fault to print."""
        try:
            super().handle()
        except ConnectionError:
            return

    def do_GET(self) -> None:
        if not self._is_local():
            self._answer(403, "text/plain", "Ask for this page by the address 127.0.0.1.\n")
        elif self.path == "/":
            self._answer(200, "text/html", self._live.page())
        elif self.path == "/state":
            self._answer(200, "application/json", self._live.state())
        else:
            self._refuse()

    def _refuse(self) -> None:
        self.close_connection = True  # what a refused request carries is not read
        self._answer(404, "text/plain", "There is nothing here.\n")

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _refuse  # noqa: N815

    def _is_local(self) -> bool:
        """Whether the address bar names this machine.

        A name of a foreign site that resolves to this machine would let that site's scripts read
        the page; browsers send the name they were given.
        """
        _, port = cast("tuple[str, int]", self.server.server_address)
        host = self.headers.get("Host", "")
        return host in {*_NAMES, *(f"{name}:{port}" for name in _NAMES)}

    def _answer(self, status: int, kind: str, text: str) -> None:
        content = text.encode("utf-8", errors="backslashreplace")
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        own = f"{policy(is_live=True)}; frame-ancestors 'none'"
        self.send_header("Content-Security-Policy", own)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Prints nothing: a browser asks every two seconds."""


def page_server(folder: Path, *, port: int = 0) -> ThreadingHTTPServer:
    """Returns a server of the page of ``folder``, bound to this machine's own address.

    Args:
        folder: of a run, which may not have begun.
        port: 0 for any that is free.

    Raises:
        OutputFolderError: there is no such folder.
        AddressError: the port is taken or not allowed.
    """
    if not folder.is_dir():
        raise OutputFolderError(f"{folder} is not a folder; name the folder of a run")
    try:
        return ThreadingHTTPServer((_ADDRESS, port), partial(PageHandler, LivePage(folder)))
    except OSError as error:
        raise AddressError(
            f"port {port} of {_ADDRESS} cannot be used: {error.strerror}; name another by --port, "
            "or leave --port out for any that is free"
        ) from None


def watch_page(folder: Path, *, port: int, say: Callable[[str], None]) -> None:
    """Serves the page of ``folder`` until Ctrl-C; ``say`` is given the address and the end.

    Raises:
        OutputFolderError: there is no such folder.
        AddressError: the port is taken or not allowed.
    """
    with page_server(folder, port=port) as server:
        say(f"http://{_ADDRESS}:{server.server_address[1]}/ shows {folder}; Ctrl-C ends it")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("stopped")

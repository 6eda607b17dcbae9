"""The page of runs as a site of a few addresses, and as one file.

    /runs                   the page
    /runs/list.json         the runs that there are, the newest first
    /runs/run.json?name=    all that the page shows of one
    /web/NAME               its modules and style

`bardlet serve` has the same addresses, and the playground beside them.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from bardlet.report.runs import Run
from bardlet.report.trained_on import Background
from bardlet.web import page, served

HOSTS = ("127.0.0.1", "localhost", "[::1]")
BODY = '<main id="report" class="report"></main>'  # of the page in a file, as in runs.html
Answer = tuple[int, str, bytes]  # status, content type, body


class Site:
    """The answers to requests, read from runs' folders as they are at the time."""

    def __init__(self, folders: Callable[[], Iterable[Path]]) -> None:
        """`folders` gives the runs that there are whenever it is asked."""
        self.folders, self.background = folders, Background()
        self.runs: dict[str, Run] = {}
        self.lock = threading.Lock()

    def answer(self, path: str, query: str = "") -> Answer:
        """The answer to GET of an address."""
        if path == "/runs":
            return static("runs.html") or as_json({}, 404)
        if path == "/runs/list.json":
            return as_json(self.listed())
        if path == "/runs/run.json":
            name = parse_qs(query).get("name", [""])[0]
            return self.one(name)
        return as_json({"error": f"there is no {path[:200]}"}, 404)

    def listed(self) -> dict[str, Any]:
        """What there is, the newest first."""
        with self.lock:
            folders = {folder.as_posix(): folder for folder in self.folders()}
            self.runs = {
                name: self.runs.get(name) or Run(folder, self.background)
                for name, folder in folders.items()
            }
            entries = [run.entry() for run in self.runs.values()]
        return {"runs": sorted(entries, key=lambda e: (-e["modified"], e["name"]))}

    def one(self, name: str) -> Answer:
        """A run by its name in the list: no other folder is ever read."""
        if name not in self.runs:
            self.listed()
        with self.lock:
            run = self.runs.get(name)
            if run is None:
                return as_json({"error": f"there is no run {name[:200]!r}"}, 404)
            return as_json(run.described())


def as_json(value: Any, status: int = 200) -> Answer:
    return status, "application/json", json.dumps(value, allow_nan=False).encode()


def static(name: str) -> Answer | None:
    """A file of the pages; None where there is none of this name."""
    content = served.file(name)
    return content and (200, *content)


def file(runs: Iterable[Run], title: str) -> str:
    """The page as one self-contained HTML file with these runs in it."""
    return page.build(
        title, modules=["report_file.js"], style=["style.css", "report.css"],
        data={"runs": [run.described() for run in runs]}, body=BODY,
    )  # fmt: skip


def server(site: Site, port: int) -> ThreadingHTTPServer:
    """A server of the site on loopback, bound; OSError where the port is taken or refused."""

    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "bardlet", ""
        timeout = 30

        def do_GET(self) -> None:
            self.reply(self.find(), body=True)

        def do_HEAD(self) -> None:
            self.reply(self.find(), body=False)

        def find(self) -> Answer:
            host = self.headers.get("host", "").rpartition(":")
            if (host[0] or host[2]).lower() not in HOSTS:  # DNS rebinding
                return as_json({"error": "this Host is not allowed"}, 403)
            url = urlsplit(self.path)
            if url.path.startswith("/web/"):
                return static(url.path.removeprefix("/web/")) or site.answer(url.path)
            try:
                return site.answer("/runs" if url.path == "/" else url.path, url.query)
            except Exception as error:  # of one request; what it is, is for the terminal
                return as_json({"error": type(error).__name__}, 500)

        def reply(self, answer: Answer, *, body: bool) -> None:
            status, kind, data = answer
            self.send_response(status)
            self.send_header("content-type", f"{kind}; charset=utf-8")
            self.send_header("content-length", str(len(data)))
            for name, value in served.HEADERS.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: a page asks every second."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Nothing: a browser that leaves is no fault."""

    return Server(("127.0.0.1", port), Handler)

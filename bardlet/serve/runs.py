"""The page of runs beside the models of a server: all runs in out/, as they train."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Response
from fastapi import Request as Asked

from bardlet.report import runs
from bardlet.report.site import Site
from bardlet.serve.pages import static
from bardlet.web.served import HEADERS

OUT = Path("out")


def router() -> APIRouter:
    """The page at /runs, and what it asks for."""
    routes = APIRouter(include_in_schema=False)
    site = Site(lambda: runs.find(OUT))

    @routes.get("/runs")
    async def page() -> Response:
        return static("runs.html")

    @routes.get("/runs/{name}.json")
    def data(asked: Asked) -> Response:  # in a thread: it reads files
        status, kind, body = site.answer(asked.url.path, asked.url.query)
        return Response(body, status, HEADERS, kind)

    return routes

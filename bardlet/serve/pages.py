"""The playground of a server, and the files of all pages."""

from __future__ import annotations

from fastapi import APIRouter, Response

from bardlet.serve.events import Refused
from bardlet.web import served


def router() -> APIRouter:
    """The playground at /, and what it is made of beneath /web/."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/")
    async def playground() -> Response:
        return static("playground.html")

    @routes.get("/web/{name}")
    async def file(name: str) -> Response:
        return static(name)

    return routes


def static(name: str) -> Response:
    """A file of the pages, by its name."""
    file = served.file(name)
    if file is None:
        raise Refused(404, f"there is no page {name}")
    kind, content = file
    return Response(content, headers=served.HEADERS, media_type=kind)

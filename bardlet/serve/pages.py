"""The files of the pages, as a server hands them out: nothing else runs in them or is loaded."""

from __future__ import annotations

from fastapi import APIRouter, Response

from bardlet.serve.events import Refused
from bardlet.web import page

KINDS = {"html": "text/html", "js": "text/javascript", "css": "text/css"}
# nothing from elsewhere, no script but files, and no page of others around it
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY, "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer", "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin", "cache-control": "no-cache",
}  # fmt: skip


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
    kind = KINDS.get(name.rpartition(".")[2])
    path = page.FOLDER / name
    if kind is None or path.name != name or not path.is_file():
        raise Refused(404, f"there is no page {name}")
    return Response(path.read_bytes(), headers=HEADERS, media_type=kind)

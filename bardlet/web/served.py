"""The files of the pages, as servers hand them out: nothing else runs in them or is loaded."""

from __future__ import annotations

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


def file(name: str) -> tuple[str, bytes] | None:
    """The type and the bytes of a file of the pages, by its name; None where there is none."""
    kind, path = KINDS.get(name.rpartition(".")[2]), page.FOLDER / name
    if kind is None or path.name != name or not path.is_file():
        return None
    return kind, path.read_bytes()

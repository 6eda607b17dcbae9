"""JavaScript modules, stylesheets and data as one HTML file that asks nobody for anything.

The modules are those of this folder; `bundle` makes one script of them, since a page that is opened
from disk cannot import. A Content-Security-Policy names the hash of that script and of the style:
nothing else runs or is loaded. Data stands in blocks that are no scripts, with every `<` escaped or
in base64, so that no text of others can end one. embedded.js reads them.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bardlet.errors import UsageError

FOLDER = Path(__file__).parent
MAX_BYTES = 500_000_000  # of a page: a tab needs several times as much memory to open it
PART = 48 << 20  # bytes of base64 in one block: V8 has no string above 512 MB
# what the page shows until its script has begun, and if it never does
WAITING = (
    "Loading. If this text stays, the file is damaged or the browser runs no scripts. "
    "正在加载。如果这段文字一直不变，说明文件已损坏，或浏览器没有运行脚本。"  # noqa: RUF001
)
# around the modules: the page says what is wrong where one throws
START = """const $waiting = document.getElementById("waiting");
try {
%s
$waiting.remove();
} catch (error) {
$waiting.textContent = error.message;
throw error;
}"""
IMPORT = re.compile(
    r"^import\s+(?:\{([^}]*)\}\s+from\s+|\*\s+as\s+(\w+)\s+from\s+)?\"\./([\w.-]+)\";$",
    re.MULTILINE,
)
EXPORT = re.compile(r"^export\s+((?:async\s+)?function\s*\*?|class|const)\s+(\w+)", re.MULTILINE)
EXPORTS = re.compile(r"^export\s+\{([^}]*)\};$", re.MULTILINE)
OTHER = re.compile(r"^(?:import|export)\b.*$|\bimport\.meta\b|\bimport\(", re.MULTILINE)
NOT_INSIDE = re.compile(r"</?script|<!--", re.IGNORECASE)  # what a script element must not hold


def build(
    title: str, *, modules: Sequence[str], data: Any = None, style: Sequence[str] | str = (),
    binary: Mapping[str, bytes] | None = None, worker: Sequence[str] = (), body: str = "",
) -> str:  # fmt: skip
    """A self-contained HTML page that starts with `modules`, file names of this folder.

    What they import comes along. `style` names stylesheets of this folder. `data` is any JSON
    value, `binary` are bytes by name. `worker` are modules that may run in a Web Worker: their
    script stands in the page as text, and WebAssembly is allowed then. `body` is HTML of ours,
    which the script finds. UsageError above `MAX_BYTES`.
    """
    script, css = START % bundle(modules), stylesheet(style)
    rules = policy(script, css, bool(worker))
    title = html.escape(title.encode("utf-8", "replace").decode("utf-8"))  # no half of a pair
    blocks = [block("data", "application/json", json_text(data))]
    for name, content in (binary or {}).items():
        packed = pack(content)
        parts = [packed[at : at + PART] for at in range(0, len(packed), PART)] or [""]
        blocks += [block(f"{name}-{i}", "text/plain", part) for i, part in enumerate(parts)]
    if worker:
        blocks.append(block("worker", "text/plain", f'"use strict";\n{bundle(worker)}'))
    page = [
        "<!DOCTYPE html>", '<html lang="en">', "<head>", '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{rules}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">', '<link rel="icon" href="data:,">',
        f"<title>{title}</title>", f"<style>{css}</style>", "</head>", "<body>",
        f'<p id="waiting">{WAITING}</p>', body, *blocks,
        f'<script type="module">{script}</script>', "</body>", "</html>", "",
    ]  # fmt: skip
    size = sum(len(part) + 1 for part in page)
    if size > MAX_BYTES:
        raise UsageError(
            f"the page would have {size / 1e6:,.0f} MB, more than the {MAX_BYTES / 1e6:,.0f} MB "
            "that a browser opens",
            "Put less into it: a smaller model, weights in fewer bits, no text",
        )
    return "\n".join(page)


def policy(script: str, css: str, worker: bool) -> str:
    """A Content-Security-Policy under which this script and this style are all that there is."""
    more = " 'wasm-unsafe-eval'; worker-src blob:" if worker else ""
    return (
        f"default-src 'none'; script-src {source(script)}{more}; style-src {source(css)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def source(text: str) -> str:
    """How a policy names an inline script or style of this text."""
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def block(name: str, kind: str, text: str) -> str:
    """An element that holds text and does nothing."""
    return f'<script type="{kind}" id="{name}">{text}</script>'


def json_text(value: Any) -> str:
    """`value` as JSON in which nothing ends a script element, and every half of a surrogate pair
    is escaped, which UTF-8 does not have."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    return re.sub(r"[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", text)


def pack(content: bytes) -> str:
    """Bytes as base64 of gzip, whose checksum tells a damaged page."""
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode("ascii")


def stylesheet(style: Sequence[str] | str) -> str:
    """The text of some stylesheets of this folder."""
    css = "\n".join(read(name) for name in ([style] if isinstance(style, str) else style))
    assert not re.search(r"</style|@import|url\(", css, re.IGNORECASE), "it is not self-contained"
    return css


def bundle(modules: Sequence[str]) -> str:
    """One script that runs some modules of this folder, and before each what it imports.

    Every module becomes a function that returns its exports. A module begins its lines of import
    and export with these words, imports names or `* as name` from "./file.js", and has neither a
    default export nor `export let`; ValueError otherwise, and for modules that import each other.
    """
    scripts: dict[str, str] = {}  # by file, in the order in which they run
    for name in modules:
        add(name, scripts, ())
    text = "\n".join(scripts.values())
    if inside := NOT_INSIDE.search(text):
        raise ValueError(f"a module has {inside[0]!r}, which would end or change its element")
    return text


def add(name: str, scripts: dict[str, str], importing: tuple[str, ...]) -> None:
    """Put a module behind what it imports, unless it is there already."""
    if name in importing:
        raise ValueError(f"modules import each other: {' -> '.join((*importing, name))}")
    if name in scripts:
        return
    text = read(name)
    for match in IMPORT.finditer(text):
        add(match[3], scripts, (*importing, name))
    exports = [exported[2] for exported in EXPORT.finditer(text)]
    exports += [listed.strip() for match in EXPORTS.finditer(text) for listed in names(match[1])]
    text = IMPORT.sub(as_constant, text)
    text = EXPORTS.sub("", EXPORT.sub(r"\1 \2", text))
    if other := OTHER.search(text):
        raise ValueError(f"{name}: {other[0]!r} is not a form of import or export that is bundled")
    returned = ", ".join(exports)
    scripts[name] = f"const {variable(name)} = (() => {{\n{text}\nreturn {{ {returned} }};\n}})();"


def as_constant(match: re.Match[str]) -> str:
    """A line of import as the constants that it stands for."""
    listed, whole, name = match.groups()
    if whole:
        return f"const {whole} = {variable(name)};"
    if listed is None:
        return ""
    renamed = ", ".join(re.sub(r"\s+as\s+", ": ", item) for item in names(listed))
    return f"const {{ {renamed} }} = {variable(name)};"


def names(listed: str) -> list[str]:
    """The names between the braces of an import or export."""
    return [name.strip() for name in listed.split(",") if name.strip()]


def variable(name: str) -> str:
    """What the exports of a module are called in a bundle."""
    return "$" + re.sub(r"\W", "_", name.removesuffix(".js"))


def read(name: str) -> str:
    """A file of this folder."""
    return (FOLDER / name).read_text(encoding="utf-8")

"""The engine of exported pages, in a browser tab: what the tests of bardlet/web/*.js ask of it."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from bardlet.interop.html import export
from bardlet.interop.verify import Trained
from bardlet.web import page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

MODULES = [
    "engine.js",
    "evidence.js",
    "gpt.js",
    "matrix.js",
    "random.js",
    "tokenizer.js",
    "wasm.js",
]
HELPERS = """
const bytes = (text) => Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
const lab = { bytes };
"""


@contextmanager
def engine_page(browser: Browser) -> Iterator[Page]:
    """A tab in which `lab` has the exports of the engine's modules, and `lab.bytes` of base64."""
    exports = ", ".join(f"...{page.variable(name)}" for name in MODULES)
    script = f"{HELPERS}\n{page.bundle(MODULES)}\nglobalThis.lab = {{ ...lab, {exports} }};"
    tab = browser.new_page()
    try:
        tab.evaluate(f"() => {{ {script} }}")
        yield tab
    finally:
        tab.close()


def binary(array: np.ndarray | bytes) -> str:
    """What `lab.bytes` takes."""
    raw = array if isinstance(array, bytes) else np.ascontiguousarray(array).tobytes()
    return base64.b64encode(raw).decode("ascii")


def described(trained: Trained, dtype: str = "float32") -> tuple[dict[str, Any], str]:
    """What an engine is made of: the page's description of a model, and its weights."""
    data, raw = export.contents(trained, dtype)
    return data, binary(raw["weights"])

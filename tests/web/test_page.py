"""Pages that hold their scripts, styles and data, in headless Chromium where that is installed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import Visitor

from bardlet.errors import UsageError
from bardlet.web import page

# what would end or change an element if it stood there as it is
NASTY = (
    "</script><script>document.title='owned'</script><!--<script> ]]> &lt; \u2028 \x00\r\n\ud83d 文"
)
SHOW = """import { embeddedData, embeddedBytes } from "./embedded.js";
import * as words from "./words.js";
import {
  double as twice,
  Pair,
} from "./words.js";
const data = embeddedData();
document.body.append(JSON.stringify([twice(data.n), words.NAME, new Pair(1).first, data.text]));
embeddedBytes("weights").then((bytes) => {
  document.body.dataset.bytes = [bytes.length, bytes.reduce((sum, b) => sum + b, 0)].join(" ");
}, (error) => { document.body.dataset.bytes = error.message; });
"""
WORDS = """export const NAME = "words";
export function double(n) { return 2 * n; }
class Pair { constructor(first) { this.first = first; } }
export { Pair };
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts modules in the place of ours, embedded.js aside."""

    def write(**texts: str) -> None:
        for name, text in texts.items():
            (tmp_path / name.replace("_", ".")).write_text(text, encoding="utf-8")

    write(embedded_js=page.read("embedded.js"))
    monkeypatch.setattr(page, "FOLDER", tmp_path)
    return write


def opened(visit: Visitor, folder: Path, html: str) -> Any:
    """A page in the browser, from disk."""
    (folder / "page.html").write_text(html, encoding="utf-8")
    return visit((folder / "page.html").as_uri())


def test_a_page_runs_its_modules_and_reads_its_data(
    modules: Callable[..., None], visit: Visitor, tmp_path: Path
) -> None:
    modules(show_js=SHOW, words_js=WORDS, look_css="body { color: rgb(1, 2, 3); }")
    raw = np.random.default_rng(0).integers(0, 256, 100_000).astype(np.uint8)
    html = page.build(
        f"<b>{NASTY}", modules=["show.js"], style="look.css",
        data={"n": 21, "text": NASTY}, binary={"weights": raw.tobytes()},
    )  # fmt: skip
    shown = opened(visit, tmp_path, html)
    shown.wait_for_selector("body[data-bytes]", state="attached")
    assert shown.evaluate("document.body.dataset.bytes") == f"{raw.size} {int(raw.sum())}"
    assert shown.title().startswith("<b></script>")
    assert shown.evaluate("getComputedStyle(document.body).color") == "rgb(1, 2, 3)"
    text = shown.evaluate("document.body.lastChild.textContent")
    assert json.loads(text) == [42, "words", 1, NASTY]
    assert shown.locator("#waiting").count() == 0


def test_bytes_in_several_parts_are_joined(
    modules: Callable[..., None], visit: Visitor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "PART", 4000)
    modules(show_js=SHOW, words_js=WORDS)
    raw = np.random.default_rng(1).integers(0, 256, 10_000).astype(np.uint8)
    data = {"n": 1, "text": ""}
    html = page.build("t", modules=["show.js"], data=data, binary={"weights": raw.tobytes()})
    assert html.count('id="weights-') == 4
    shown = opened(visit, tmp_path, html)
    shown.wait_for_selector("body[data-bytes]", state="attached")
    assert shown.evaluate("document.body.dataset.bytes") == f"{raw.size} {int(raw.sum())}"
    # one digit of base64 is another: the checksum says so
    at = html.index('id="weights-1"') + 2000
    shown = opened(visit, tmp_path, html[:at] + ("A" if html[at] != "A" else "B") + html[at + 1 :])
    shown.wait_for_selector("body[data-bytes]", state="attached")
    assert "damaged" in shown.evaluate("document.body.dataset.bytes")


def test_a_script_of_others_does_not_run(
    modules: Callable[..., None], browser: Any, tmp_path: Path
) -> None:
    """Were something to get into the page as HTML, the policy would still stop it."""
    modules(a_js='document.body.insertAdjacentHTML("beforeend", "<img src=x onerror=own()>");')
    html = page.build("t", modules=["a.js"]).replace("</body>", "<script>own()</script></body>")
    visitor = Visitor(browser)
    opened(visitor, tmp_path, html).wait_for_timeout(50)
    visitor.close()
    assert len(visitor.complaints) == 3  # the script, the handler, and the image
    assert all("Content Security Policy" in complaint for complaint in visitor.complaints)


@pytest.mark.parametrize("cut", ["in its data", "before its script"])
def test_a_page_that_was_cut_short_says_so(
    modules: Callable[..., None], visit: Visitor, tmp_path: Path, cut: str
) -> None:
    modules(a_js="document.body.textContent = '';")
    html = page.build("t", modules=["a.js"], data="x" * 1000)
    at = (
        html.index("x" * 1000) + 10 if cut == "in its data" else html.index('<script type="module"')
    )
    assert "damaged" in opened(visit, tmp_path, html[:at]).inner_text("body")


def test_a_page_whose_data_is_damaged_says_so(
    modules: Callable[..., None], browser: Any, tmp_path: Path
) -> None:
    modules(show_js=SHOW, words_js=WORDS)
    html = page.build("t", modules=["show.js"], data={"n": 1}).replace('{"n": 1}', '{"n": 1')
    visitor = Visitor(browser)
    assert "This file is damaged" in opened(visitor, tmp_path, html).inner_text("#waiting")
    visitor.close()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("export default 1;", "not a form"), ("export let x = 1;", "not a form"),
        ('import x from "./b.js";', "not a form"), ("const x = import.meta.url;", "not a form"),
        ('const x = await import("./b.js");', "not a form"),
        ('import { b } from "./b.js";', "import each other: a.js -> b.js -> a.js"),
        ('const x = "</script>";', "end or change"), ("a <!--b;", "end or change"),
    ],
)  # fmt: skip
def test_modules_of_another_form_are_refused(
    modules: Callable[..., None], text: str, why: str
) -> None:
    modules(a_js=text, b_js='import { a } from "./a.js";\n')
    with pytest.raises(ValueError, match=re.escape(why)):
        page.bundle(["a.js"])


def test_a_module_that_two_import_stands_once(modules: Callable[..., None]) -> None:
    modules(a_js='import "./b.js";\nimport { c } from "./c.js";', c_js="export const c = 1;",
            b_js='import { c as d } from "./c.js";')  # fmt: skip
    bundled = page.bundle(["a.js", "b.js"])
    assert [bundled.count(f"const ${name}_js") + bundled.count(f"const ${name} =")
            for name in "abc"] == [1, 1, 1]  # fmt: skip
    assert bundled.index("const $c ") < bundled.index("const $b ") < bundled.index("const $a ")


def test_a_page_too_large_for_a_browser_is_refused(
    modules: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "MAX_BYTES", 10_000)
    modules(a_js="")
    with pytest.raises(UsageError, match="MB that a browser opens"):
        page.build("t", modules=["a.js"], data="x" * 10_000)

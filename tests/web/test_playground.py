"""The playground in headless Chromium: what it shows, against the model asked in Python."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from browsing import Visitor, wait
from serve_support import Served
from support import PLAY, a_run, tiny_model

import bardlet
from bardlet.analysis import attention
from bardlet.data.dataset.folder import Dataset
from bardlet.data.prepare.pipeline import prepare
from bardlet.data.text.corpus import Corpus
from bardlet.run.state import DatasetRef
from bardlet.sampling.filters import Sampling, filtered
from bardlet.serve.looking import MAX_IDS
from bardlet.serve.model import Model

MARKUP = "<img src=x onerror=alert(1)><script>alert(2)</script>&lt;\"'\n"
POEM = "床前明月光 疑是地上霜\n"
TEXT = PLAY + (MARKUP + POEM) * 5 + PLAY
ROWS = ".candidates button"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model of random weights, as if trained on a text with markup and Chinese in it."""
    folder = tmp_path_factory.mktemp("playground")
    prepare(Corpus(name="play", text=TEXT, sources=()), folder / "data")
    dataset = Dataset(folder / "data")
    gpt = tiny_model("llama", vocab_size=dataset.vocab_size, block_size=64)
    ref = DatasetRef(name=str(folder / "data"), hash=dataset.hash)
    a_run(folder / "run", gpt, dataset.tokenizer.chars, dataset=ref)  # pyright: ignore
    return bardlet.load(folder / "run", dtype="float32", checkpoint="last")


@pytest.fixture(scope="module")
def served(model: Model) -> Iterator[Served]:
    one = Served(model)
    yield one
    one.close()


@pytest.fixture
def show(visit: Visitor, served: Served) -> Any:
    """Opens the playground with a prompt and settings, in a browser's context."""

    def open_it(state: str = "prompt=Speak", **context: Any) -> Any:
        page = visit(f"http://127.0.0.1:{served.port}/#{state}", **context)
        page.wait_for_selector(ROWS)
        page.wait_for_selector(".counted")
        return page

    return open_it


def written(page: Any, card: int = 0) -> str:
    """The text of a card, without the caret."""
    return "".join(
        page.locator(".card").nth(card).locator(".token:not(.caret)").all_text_contents()
    )


def write(page: Any, count: int) -> None:
    """Write on, and wait until the first card has so many tokens."""
    page.click("button.primary")
    wait(page, f"document.querySelectorAll('.card')[0].querySelectorAll('.token').length > {count}")
    wait(page, "!document.querySelector('.busy, [aria-busy]')")  # candidates are of the end


def percent(value: float) -> str:
    return "0" if value == 0 else "<0.1%" if value < 0.0005 else f"{100 * value:.1f}%"


def probabilities(model: Model, text: str, **sampling: Any) -> dict[str, float]:
    """What each character has after a text."""
    with torch.no_grad():
        logits = model.gpt(torch.tensor([list(model.prompt(text))]))[0][0]
    values = filtered(logits, Sampling(**{"top_k": 0, **sampling}))[0].softmax(-1).tolist()
    return dict(zip(model.tokenizer.chars, values, strict=True))  # pyright: ignore


def shown(page: Any, column: str = ".model") -> dict[str, str]:
    """What the candidates have in a column: by default their percentages."""
    marks = {"\u21b5": "\n", "\u2423": " "}
    rows = page.locator(ROWS).evaluate_all(
        "(rows, column) => rows.map(r => [r.querySelector('.piece').textContent, "
        "r.querySelector(column).textContent])",
        column,
    )
    return {marks.get(token, token): text for token, text in rows}


def test_a_text_streams_in_and_is_the_models(show: Any, model: Model) -> None:
    page = show("prompt=Speak&length=40&seed=7&top_k=5")
    write(page, 45)
    expected = model.generate("Speak", max_new_tokens=40, seed=7, top_k=5, logprobs=0)
    assert written(page) == "Speak" + expected.text
    scores = [*model.logprobs("Speak"), *expected.logprobs]
    classes = page.locator(".card .token:not(.caret)").evaluate_all(
        "all => all.map(one => one.className.match(/s(\\d)/)?.[1] ?? null)"
    )
    levels = [sum(-one.logprob / np.log(2) >= bits for bits in (0.5, 1.5, 3, 4.5, 6, 8))
              for one in scores]  # fmt: skip
    assert classes == [None, *map(str, levels)]


def test_candidates_and_counts_are_those_of_model_and_text(show: Any, model: Model) -> None:
    page = show("prompt=Speak&temperature=1")
    likely = probabilities(model, "Speak", temperature=1.0)
    texts = shown(page)
    assert len(texts) == 20 and next(iter(texts)) == max(likely, key=lambda char: likely[char])
    assert texts == {char: percent(likely[char]) for char in texts}
    train = TEXT[: int(len(TEXT) * 0.9)]
    times = train.count("Speak")
    assert f"\u201cSpeak\u201d stands there {times} times." in page.inner_text(".evidence")
    counts = shown(page, ".count")
    assert counts == {char: f"{train.count('Speak' + char):,}" for char in texts}
    assert counts.keys() & set(", ") and any(counts[char] != "0" for char in counts)
    page.click(".end >> text='eak'")  # a shorter end of the context
    page.wait_for_selector(f".evidence .count >> text={train.count('eak')} times")
    assert page.locator(".places li").count() == 4


def test_the_settings_reshape_the_distribution_at_once(show: Any, model: Model) -> None:
    page = show("prompt=Speak&temperature=1")
    for name, value in (("temperature", 0.5), ("top_k", 3), ("min_p", 0.3), ("top_p", 0.4)):
        page.locator(f"#set-{name}").fill(str(value))
        settings = {"temperature": 0.5, name: value} if name != "temperature" else {name: value}
        likely = probabilities(model, "Speak", **settings)
        assert shown(page) == {char: percent(likely[char]) for char in shown(page)}, name
        page.click(".settings header button")
        page.locator("#set-temperature").fill("0.5")
    page.locator("#set-temperature").fill("0")
    assert list(shown(page).values())[:2] == ["100%", "0"]


def test_filters_are_those_of_sampling(show: Any) -> None:
    """A thousand distributions, ties and the coldest among them, in float64 against float32."""
    page = show()
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(200, 50, generator=generator) * 3).round(decimals=1)  # with ties
    cases = [{"temperature": 0.7, "top_k": 7}, {"temperature": 1.3, "top_p": 0.6},
             {"temperature": 1.0, "min_p": 0.1}, {"temperature": 0.0, "top_k": 0},
             {"temperature": 0.9, "top_k": 20, "top_p": 0.9, "min_p": 0.02}]  # fmt: skip
    ours = page.evaluate(
        "async ([rows, cases]) => { const { reshape } = await import('/web/filters.js');"
        "return cases.map((c) => rows.map((row) => Array.from(reshape(row, c)))); }",
        [logits.tolist(), cases],
    )
    many = torch.randn(3000, generator=generator).round(decimals=2).tolist()
    few = page.evaluate("async (v) => (await import('/web/filters.js')).largest(v, 20)", many)
    assert few == sorted(range(3000), key=lambda i: (-many[i], i))[:20]
    for case, values in zip(cases, ours, strict=True):
        sampling = Sampling(**{"top_k": 0, **case})
        expected = filtered(logits.clone(), sampling).softmax(-1)
        if not sampling.degree:
            expected = torch.nn.functional.one_hot(logits.argmax(-1), 50).float()
        assert (torch.tensor(values) - expected).abs().max() < 1e-5, case


def test_another_candidate_branches_and_undo_takes_back(show: Any, model: Model) -> None:
    page = show("prompt=Speak&length=12")
    write(page, 17)
    before = written(page)
    page.hover(".token[data-at='8']")
    page.wait_for_selector(".token.looked[data-at='8']")
    page.wait_for_selector(f"{ROWS}[aria-current=true]")
    other = page.locator(f"{ROWS}:not([aria-current])").first
    piece = other.locator(".piece").text_content()
    other.click()
    page.wait_for_selector(".card:nth-child(2).active")
    assert written(page, 0) == before
    assert written(page, 1)[:8] == before[:8] and len(written(page, 1)) == 9
    assert f"branch of A at \u201c{piece}\u201d" in page.inner_text(".card.active .origin")
    assert page.locator(".card.active .shared").count() == 8
    page.click(".card.active .text")  # its end: a candidate there goes on in the same text
    page.locator(ROWS).first.click()
    wait(page, "document.querySelectorAll('.card.active .token').length === 11")
    for texts in (2, 1, 1):
        page.click("text=Undo")
        assert page.locator(".card").count() == texts
    assert written(page) == "Speak"


def test_characters_of_several_tokens_are_put_together_as_they_come(show: Any) -> None:
    """床 in UTF-8 is three bytes: shown as bytes until the third is there, then as one."""
    page = show()
    steps = page.evaluate(
        r"""async (text) => {
        const { TextView } = await import('/web/text_view.js');
        const { Branch } = await import('/web/branches.js');
        const { translator } = await import('/web/words.js');
        const bytes = [...new TextEncoder().encode(text)];
        const hex = (b) => b < 128 ? String.fromCharCode(b) : '\\x' + b.toString(16);
        const engine = { pieces: async (ids) => ids.map(hex),
                         decode: async (ids) => new TextDecoder().decode(new Uint8Array(ids)) };
        const branch = new Branch({ name: 'A', ids: [], scores: [], prompt: 0 });
        const view = new TextView(translator('en'), engine, branch, {});
        const shown = [];
        for (const id of bytes) {
            branch.push({ id, logprob: -1 });
            await view.update();
            shown.push(view.tokens.map((one) => one.textContent).join(''));
        }
        return shown; }""",
        "a床前明月光b",
    )
    assert steps[:4] == ["a", r"a\xe5", r"a\xe5\xba", "a床"]
    assert steps[-1] == "a床前明月光b" and len(steps) == 17


def test_a_context_beyond_what_the_server_takes_is_scored_in_parts(show: Any) -> None:
    page = show()
    scored, sizes = page.evaluate("""async () => {
      const { ServerEngine } = await import('/web/server_engine.js');
      const engine = new ServerEngine('large', ''), sizes = [];
      engine.info = { context: 40000 };
      engine.json = async (path, { ids }) => {
        sizes.push(ids.length);
        return ids.map((id) => ({ id }));
      };
      const scores = await engine.score(Array.from({ length: 50000 }, (_, i) => i));
      return [scores.map(({ id }) => id), sizes];
    }""")
    assert scored == list(range(50000))
    assert max(sizes) == MAX_IDS


def test_samples_stand_side_by_side(show: Any, model: Model) -> None:
    page = show("prompt=All&length=20&samples=3&seed=5")
    write(page, 23)
    for i in range(3):
        expected = model.generate("All", max_new_tokens=20, seed=5 + i, top_k=0)
        assert written(page, i) == "All" + expected.text
    boxes = [page.locator(".card").nth(i).bounding_box() for i in range(2)]
    assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] < boxes[1]["x"]
    page.click(".card:nth-child(2) .close")
    assert page.locator(".card").count() == 2


def test_writing_can_be_stopped(show: Any, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    step = served.engine.step

    def slowly() -> None:
        time.sleep(0.02)  # or all is written before anybody stops it
        step()

    monkeypatch.setattr(served.engine, "step", slowly)
    page = show("prompt=All&length=2000")
    page.click("button.primary")
    wait(page, "document.querySelectorAll('.token').length > 30")
    page.keyboard.press("Escape")
    wait(page, "!document.querySelector('.busy')")
    assert page.locator(".token").count() < 2000
    assert served.idle()


def test_attention_of_each_head_is_the_models(show: Any, model: Model) -> None:
    page = show("prompt=Speak, speak.")
    page.click(".attention summary")
    page.wait_for_selector("button.head")
    assert page.locator("button.head").count() == 2 * (4 + 1)
    weights = attention.trace(model.gpt, model.prompt("Speak, speak.")).attention
    page.click("button[aria-label='Layer 2, head 3']")
    page.hover(".strip .token[data-at='5']")
    shares = page.locator(".strip .token").evaluate_all(
        "all => all.map((one) => Number(one.style.getPropertyValue('--weight')))"
    )
    assert np.abs(np.array(shares) - weights[1, 2, 5].numpy()).max() < 6e-4
    page.click("button[aria-label='Layer 1, all heads, mean']")
    largest = weights[0].mean(0)[5].max().item()
    assert percent(largest) in page.inner_text(".says")
    assert page.locator(".large").evaluate("c => c.width === c.height && c.width > 100")


def test_the_keyboard_alone_does_everything(show: Any) -> None:
    page = show("length=6")
    page.focus("#prompt")
    page.keyboard.press("Control+A")
    page.keyboard.type("Speak")
    page.keyboard.press("Control+Enter")
    wait(page, "document.querySelectorAll('.token').length === 12")
    wait(page, "!document.querySelector('.busy')")
    before = written(page)
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('.token')"):
            break
    for key in ("Home", "ArrowRight", "ArrowRight", "ArrowLeft", "ArrowRight"):
        page.keyboard.press(key)
    assert page.evaluate("document.activeElement.dataset.at") == "2"
    page.keyboard.press("Enter")
    page.wait_for_selector(f"{ROWS}:focus")
    page.keyboard.press("Home")
    chosen = page.evaluate("document.activeElement.dataset.id")
    page.keyboard.press("Enter")
    wait(page, "document.querySelectorAll('.card').length === 2")
    assert chosen is not None and len(written(page, 1)) == 3
    page.wait_for_selector(f"{ROWS}:focus")
    page.keyboard.press("Escape")
    page.wait_for_selector(".card.active .caret:focus")
    page.keyboard.press("Control+Z")
    wait(page, "document.querySelectorAll('.card').length === 1")
    assert written(page) == before and page.input_value("#prompt") == "Speak"


def test_undo_among_candidates_takes_a_choice_back_and_not_the_typing(show: Any) -> None:
    page = show("length=6")
    page.fill("#prompt", "")
    page.type("#prompt", "Speak")
    write(page, 11)
    before = written(page)
    page.locator(f"{ROWS} >> nth=0").press("Enter")
    wait(page, "document.querySelectorAll('.token').length === 13")
    page.wait_for_selector(f"{ROWS}:focus")
    page.keyboard.press("Control+Z")
    wait(page, "document.querySelectorAll('.token').length === 12")
    assert written(page) == before and page.input_value("#prompt") == "Speak"


def test_a_prompt_that_is_being_read_is_written_on(show: Any, served: Served) -> None:
    """Also where the server takes longer for it than the page waits for more to be typed."""
    page = show("length=6")
    event = served.held()
    try:
        page.focus("#prompt")
        page.keyboard.press("Control+A")
        page.keyboard.type("Speak")
        page.keyboard.press("Control+Enter")
        page.wait_for_timeout(500)  # longer than the 250 ms; shorter would let anything pass
    finally:
        event.set()
    wait(page, "document.querySelectorAll('.token').length === 12")
    page.click("text=Undo")
    page.click("text=Undo")
    wait(page, "document.querySelectorAll('.token').length === 2")  # one reading, not two


def test_a_prompt_that_was_typed_back_is_not_read(show: Any, served: Served) -> None:
    page = show("prompt=Speak&length=6")
    write(page, 11)
    before = written(page)
    event = served.held()
    try:
        page.focus("#prompt")
        with page.expect_request("**/bardlet/score"):
            page.keyboard.press("End")
            page.keyboard.type("k")
        page.keyboard.press("Backspace")
        page.wait_for_timeout(500)
    finally:
        event.set()
    page.click(".card .text")
    page.wait_for_selector(".counted")
    assert written(page) == before


def test_light_and_dark(show: Any) -> None:
    def brightness(page: Any) -> float:
        color = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", color)[:3])) / 3

    page = show(color_scheme="dark")
    assert brightness(page) < 60
    page.select_option("select >> nth=-1", "light")
    assert brightness(page) > 200
    page.reload()
    page.wait_for_selector(ROWS)
    assert brightness(page) > 200  # remembered
    page.select_option("select >> nth=-1", "auto")
    assert brightness(page) < 60


def test_a_phones_width_holds_it_all(show: Any) -> None:
    page = show("prompt=All&length=20", viewport={"width": 360, "height": 740}, has_touch=True,
                is_mobile=True)  # fmt: skip
    write(page, 23)
    page.tap(".token[data-at='2']")
    page.wait_for_selector(f"{ROWS}[aria-current=true]")
    page.click(".attention summary")
    page.wait_for_selector("button.head")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    sides = page.locator("button:visible, .panel, .card").evaluate_all(
        "all => all.filter((one) => !one.closest('.heads, details:not([open])'))"
        ".map((one) => one.getBoundingClientRect()).map((box) => [box.left, box.right])"
    )
    assert min(left for left, _ in sides) >= 0 and max(right for _, right in sides) <= 360


def test_it_speaks_chinese_and_english(show: Any) -> None:
    page = show("prompt=床前", locale="zh-CN")
    assert page.evaluate("document.documentElement.lang") == "zh"
    assert page.inner_text("button.primary") == "续写"
    assert "“床前”在其中出现" in page.inner_text(".evidence")
    assert shown(page)
    page.select_option("select[aria-label='语言']", "en")
    assert page.get_attribute("a:text('Runs')", "href") == "runs"
    assert page.inner_text("button.primary") == "Write"


@pytest.mark.parametrize("file", ["words.js", "report_words.js"])
def test_both_languages_have_the_same_words(show: Any, file: str) -> None:
    words = show().evaluate(f"import('/web/{file}').then((m) => m.WORDS)")
    assert words["en"].keys() == words["zh"].keys() and len(words["en"]) > 40
    for name, text in words["en"].items():
        assert set(re.findall(r"\{\w+\}", text)) == set(
            re.findall(r"\{\w+\}", words["zh"][name])
        ), name


def test_no_text_can_inject_anything(show: Any, visit: Visitor) -> None:
    """Markup in the prompt, in a model's text and in the training text is shown, and is text."""
    page = show("prompt=<img src=x onerror=alert(1)>")
    assert "<img src=x onerror" in page.inner_text(".evidence")
    assert written(page) == "<img src=x onerror=alert(1)>"
    page.click(".attention summary")
    page.wait_for_selector("button.head")
    assert page.locator("img, iframe, object, script:not([src])").count() == 0
    ran = page.evaluate(
        "() => { const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
        "document.body.append(s); return window.ran ?? null; }"
    )
    assert ran is None  # the policy stops what is not a file of ours
    assert len(visit.complaints) == 1 and "Content Security Policy" in visit.complaints.pop()


def test_what_the_model_does_not_know_is_said(show: Any, visit: Visitor) -> None:
    page = show()
    page.fill("#prompt", "\u6f22")
    page.wait_for_selector("#problem:has-text('\u6f22')")
    assert "not in the model's alphabet" in page.inner_text("#problem")
    page.fill("#prompt", "All")
    wait(page, "document.getElementById('problem').textContent === ''")
    assert "400" in visit.complaints.pop()  # a browser names every such answer


def test_the_address_holds_prompt_and_settings(show: Any) -> None:
    page = show("prompt=Speak&temperature=1.25&seed=9&top_p=bad&length=-5")
    assert page.input_value("#set-temperature") == "1.25"
    assert page.input_value("#set-length") == "1" and page.input_value("#set-top_p") == "1"
    page.fill("#prompt", "All:")
    wait(page, "location.hash.includes('prompt=All%3A')")
    page.reload()
    page.wait_for_selector(ROWS)
    assert page.input_value("#prompt") == "All:" and page.input_value("#set-seed") == "9"


def test_a_server_with_a_key_asks_for_it(model: Model, visit: Visitor) -> None:
    one = Served(model, key="secret")
    try:
        page = visit(f"http://127.0.0.1:{one.port}/")
        for key in ("wrong", "secret"):
            page.wait_for_selector("#key")
            page.fill("#key", key)
            page.keyboard.press("Enter")
            if key == "wrong":
                page.wait_for_selector("[role=alert]:has-text('wrong')")
        page.wait_for_selector(ROWS)
        assert all("401" in visit.complaints.pop() for _ in range(len(visit.complaints)))
    finally:
        one.close()

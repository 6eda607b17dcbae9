"""Models as one HTML file: what is written, how it is proved, and what opens it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from browsing import MISSING, Visitor
from support import Refused, a_run, a_state, some_text, tiny_model

from bardlet import cli
from bardlet.data.dataset.folder import Dataset
from bardlet.data.prepare.pipeline import prepare
from bardlet.data.text.corpus import Corpus, Source
from bardlet.data.tokenizers.base import ByteTokenizer, Tokenizer, from_json
from bardlet.data.tokenizers.bpe_training import train
from bardlet.errors import CheckpointError
from bardlet.interop.html import check, chromium, export
from bardlet.interop.html import text as training_text
from bardlet.interop.verify import Comparison, Trained
from bardlet.run.state import DatasetRef
from bardlet.web import page

# names and texts of others, that would run if they stood in the page as they are
NAME = "a<img src=x onerror=document.title='owned'>&\"'"
NASTY = "</script><script>document.title='owned'</script><!--"
TEXT = some_text(3000) + NASTY + " 春江潮水 " + some_text(2000, seed=1)
needs_chromium = pytest.mark.skipif(chromium.program() is None, reason=f"Chromium {MISSING}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a random model, and the dataset that it was trained on, as it says."""
    base = tmp_path_factory.mktemp("html")
    source = Source(name="words.txt", bytes=len(TEXT), sha256="0" * 64)
    prepare(Corpus(name="words", text=TEXT, sources=(source,)), base / "data")
    dataset = Dataset(base / "data")
    chars = "".join(sorted(set(TEXT)))
    model = tiny_model("llama", vocab_size=len(chars) + 3, block_size=24)  # of which 3 are padding
    ref = DatasetRef(name=str(base / "data"), hash=dataset.hash)
    a_run(base / NAME, model, chars, dataset=ref)
    return base


@pytest.fixture
def exported(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes the run's page with the command, without its proof."""

    def write(*options: str) -> Path:
        monkeypatch.setattr(check.chromium, "program", lambda: None)
        out = tmp_path / "model.html"
        assert cli.main(["export", str(folder / NAME), str(out), *options]) == 0
        return out

    return write


@needs_chromium
def test_a_page_proves_itself_before_it_gets_its_name(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "model.html"
    options = ["--format=html", "--with_text", "--json"]
    assert cli.main(["export", str(folder / NAME), str(out), *options]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["program"].startswith(("Chrome", "Chromium", "Headless"))
    assert done["max_difference"] <= done["tolerance"] < 1e-3
    assert (done["greedy"], done["greedy_wanted"]) == (12, 12)
    assert done["files"] == {"model.html": out.stat().st_size}
    assert list(out.parent.iterdir()) == [out]


def trained(family: str, tokenizer: Tokenizer) -> Trained:
    model = tiny_model(family, vocab_size=tokenizer.vocab_size, block_size=80).eval()
    return Trained(name="a run", model=model, tokenizer=tokenizer, state=a_state())


@needs_chromium
@pytest.mark.parametrize(
    ("family", "dtype", "tokenizer"),
    [
        ("gpt2", "float16", ByteTokenizer),
        ("llama", "int8", lambda: from_json(train(TEXT, vocab_size=300), "a test")),
    ],
    ids=["bytes", "bpe"],
)
def test_other_tokenizers_and_dtypes_are_proved(
    tmp_path: Path, family: str, dtype: str, tokenizer: Callable[[], Tokenizer]
) -> None:
    model = trained(family, tokenizer())
    export.write(model, tmp_path, dtype)
    told = export.verify(model, tmp_path, dtype)
    assert isinstance(told, Comparison)
    told.check()
    assert told.greedy == told.greedy_wanted == 40


@needs_chromium
def test_a_page_that_computes_something_else_is_not_published(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    read = page.read

    def wrong(name: str) -> str:
        text = read(name)
        return text.replace("this.group = H / K", "this.group = H") if name == "gpt.js" else text

    monkeypatch.setattr(page, "read", wrong)
    line = refused("export", str(folder / NAME), str(tmp_path / "a.html"))
    assert "computes other logits" in line
    assert list(tmp_path.iterdir()) == []


@needs_chromium
def test_a_page_with_another_tokenizer_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained("gpt2", from_json(train(TEXT, vocab_size=300), "a test"))
    read = page.read
    monkeypatch.setattr(page, "read", lambda name: read(name).replace("a[0] < b[0]", "a[0] > b[0]"))
    export.write(model, tmp_path, "float32")
    with pytest.raises(CheckpointError, match="tokenizer finds other tokens"):
        export.verify(model, tmp_path, "float32")


def test_without_a_browser_it_says_that_nothing_was_checked(
    exported: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = exported("--weights=int8")
    said = capsys.readouterr()
    assert "so it is not checked" in said.err
    assert f"{out}  {out.stat().st_size:,} bytes" in said.out


def test_a_browser_that_does_not_run_is_an_error(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    monkeypatch.setenv(chromium.VARIABLE, shutil.which("true") or "true")
    line = refused("export", str(folder / NAME), str(tmp_path / "a.html"))
    assert "the page does not run in" in line
    assert list(tmp_path.iterdir()) == []


def test_sizes_are_those_of_the_weights(exported: Callable[..., Path]) -> None:
    sizes = []
    for dtype in export.DTYPES:
        out = exported(f"--dtype={dtype}")
        sizes.append(out.stat().st_size)
        out.unlink()
    parameters = 33_000
    assert sizes[0] - sizes[1] > 1.5 * parameters
    assert sizes[1] - sizes[2] > 0.6 * parameters


# what is refused --------------------------------------------------------------------------------


def test_what_cannot_be_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    run, out = str(folder / NAME), tmp_path / "a.html"
    assert "does not end in .html" in refused("export", run, str(tmp_path / "a"), "--format=html")
    assert "html has no dtype 'Q4_0'" in refused("export", run, str(out), "--dtype=Q4_0")
    line = refused("export", run, str(tmp_path / "b"), "--with_text", "--format=gguf")
    assert "gguf has no place for a text" in line
    out.write_text("mine", encoding="utf-8")
    assert "already exists" in refused("export", run, str(out))
    assert out.read_text(encoding="utf-8") == "mine"
    out.unlink()
    monkeypatch.setattr(training_text, "MAX_BYTES", 3000)
    assert "and a page counts in" in refused("export", run, str(out), "--with_text")
    monkeypatch.setattr(page, "MAX_BYTES", 10_000)
    line = refused("export", run, str(out))
    assert "MB that a browser opens" in line
    assert list(tmp_path.iterdir()) == []


def test_the_text_must_be_that_of_the_model(folder: Path, tmp_path: Path, refused: Refused) -> None:
    chars = "".join(sorted(set(TEXT)))
    model = tiny_model("gpt2", vocab_size=len(chars))
    for name, ref in {
        "b": DatasetRef(name=str(folder / "data"), hash="another"),
        "c": DatasetRef(name=str(folder / "gone"), hash="another"),
        "d": DatasetRef(name="", hash=""),
    }.items():
        run = a_run(tmp_path / name, model, chars, dataset=ref)
        refused("export", str(run), str(tmp_path / "a.html"), "--with_text")
    assert not list(tmp_path.glob("*.html"))


# what opens it ----------------------------------------------------------------------------------


def test_the_page_writes_and_counts_without_a_network(
    exported: Callable[..., Path], visit: Visitor
) -> None:
    """By its playground, from disk; names and texts of others are text."""
    shown = visit(exported("--with_text").as_uri() + "#temperature=0&length=6")
    shown.fill("#prompt", "the </scr")
    shown.wait_for_selector(".cards .token")
    count = shown.evaluate("""async () => {
      const engine = await bardlet.engine;
      const told = await engine.evidence((await engine.encode("the </scr")).ids);
      return [told.context, told.count, engine.info.name, engine.info.can.evidence];
    }""")
    assert count == ["</scr", 2, NAME, True]
    assert shown.title() == NAME
    assert NAME in shown.inner_text("header")
    shown.click("button.primary")
    shown.locator(".cards .token").nth(14).wait_for()
    assert shown.evaluate("document.title") == NAME


@pytest.mark.parametrize("how", ["worker=no", "simd=no", "worker=no&simd=no"])
def test_every_way_of_computing_writes_the_same(
    exported: Callable[..., Path], visit: Visitor, how: str
) -> None:
    out = exported()
    write = """async () => {
      const engine = await bardlet.engine, ids = [];
      for await (const { id } of engine.generate([1, 2], { seed: 3, max_new_tokens: 30 })) {
        ids.push(id);
      }
      return [ids, engine.info.simd, await engine.evidence([1])];
    }"""
    ids, simd, counts = visit(out.as_uri()).evaluate(write)
    other, without, _ = visit(f"{out.as_uri()}#{how}").evaluate(write)
    assert (other, len(ids), counts) == (ids, 30, None)
    assert (simd, without) == (True, "simd" not in how)


def test_writing_stops_when_it_is_told_to(exported: Callable[..., Path], visit: Visitor) -> None:
    shown = visit(exported().as_uri())
    stopped = shown.evaluate("""async () => {
      const engine = await bardlet.engine, stop = new AbortController();
      let n = 0;
      const options = { max_new_tokens: 1000000 };
      for await (const _ of engine.generate([1], options, stop.signal)) if (++n === 5) stop.abort();
      const after = await engine.logits([1]); // the worker answers again
      let other = 0;
      for await (const _ of engine.generate([1], { max_new_tokens: 4 })) other++;
      return [n, after.length > 3, other];
    }""")
    assert stopped == [5, True, 4]


@pytest.mark.parametrize("how", ["weights", "cut"])
def test_a_damaged_page_says_so(exported: Callable[..., Path], visit: Visitor, how: str) -> None:
    out = exported()
    html = out.read_text(encoding="utf-8")
    at = html.index('id="weights-0">') + 5000
    other = "A" if html[at] != "A" else "B"
    out.write_text(html[:at] + (other + html[at + 1 :] if how == "weights" else ""), "utf-8")
    shown = visit(out.as_uri())
    shown.wait_for_selector("text=damaged")
    assert "damaged" in shown.inner_text("body")

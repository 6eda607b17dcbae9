"""The package from Python: prepare, train and load, as the commands do them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from support import assert_same_end, some_text, tiny_config

import bardlet
from bardlet.cli import main
from bardlet.commands.parser import Parser
from bardlet.commands.prepare import PrepareOptions, add_options
from bardlet.config import to_toml
from bardlet.errors import BardletError, DataError, UsageError

# orders of import, each with bardlet's modules imported anew
IMPORTS = (
    "import bardlet; assert 'torch' not in sys.modules; bardlet.train",
    "import bardlet.train; import bardlet",
    "from bardlet.train import train; import bardlet",
    "import bardlet.train as module; import bardlet",
    "import bardlet.planning.trial; import bardlet",
)
CALLED = """
import sys
for order in sys.argv[1:]:
    for name in [name for name in sys.modules if name.split(".")[0] == "bardlet"]:
        del sys.modules[name]
    exec(order)
    from bardlet.train import train, Result
    import bardlet.train as module
    assert bardlet.train is module is sys.modules["bardlet.train"] and module.train is train
    from bardlet.errors import UsageError
    try:
        bardlet.train("nowhere.toml")
    except UsageError as error:
        assert "cannot read nowhere.toml" in str(error), error
    else:
        raise AssertionError
"""


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("words.txt").write_text(some_text(6000), encoding="utf-8")
    return tmp_path


def test_the_same_dataset_and_weights_as_by_the_commands(
    texts: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Bit for bit, without a word, and each call takes what the one before it returns."""
    dataset = bardlet.prepare(Path("words.txt"), out="data/python", val_fraction=0.2)
    run = bardlet.train(
        write_options("python"), dataset=dataset, out_dir="out/python", learning_rate=0.02
    )
    text = bardlet.load(run).generate("to be", max_new_tokens=5, seed=1)
    assert capfd.readouterr() == ("", "")
    assert run.iter == 8 and not run.stopped and Path(run) == Path("out/python")
    assert main(["prepare", "words.txt", "--out=data/command", "--val_fraction=0.2"]) == 0
    words = ["--dataset=data/command", "--out_dir=out/command", "--learning_rate=0.02"]
    assert main(["train", write_options("command"), *words]) == 0
    assert [p.name for p in sorted(Path("data/python").iterdir())] == [
        p.name for p in sorted(Path("data/command").iterdir())
    ]
    for name in ("tokenizer.json", "train-00000.bin", "val-00000.bin"):
        assert Path("data/python", name).read_bytes() == Path("data/command", name).read_bytes()
    here = Path()
    assert_same_end(tiny_config(here, Path(run)), tiny_config(here, Path("out/command")))
    assert bardlet.load("out/command").generate("to be", max_new_tokens=5, seed=1).text == text.text


def write_options(name: str) -> str:
    path = Path(f"{name}.toml")
    path.write_text(to_toml(tiny_config(Path("unused"), Path("unused"))), encoding="utf-8")
    return str(path)


def test_going_on_and_what_it_says(texts: Path, capfd: pytest.CaptureFixture[str]) -> None:
    dataset = bardlet.prepare("words.txt")
    assert Path(dataset) == Path("data/words")
    options: dict[str, Any] = {"dataset": dataset, "out_dir": "out/a"}
    bardlet.train(write_options("a"), **options)
    capfd.readouterr()
    lines: list[str] = []
    more = bardlet.train(resume=True, out_dir="out/a", max_iters=10, progress=lines.append)
    assert more.iter == 10
    assert any("resuming out/a at iteration 8" in line for line in lines)
    assert any(line.startswith("iter 9: loss") for line in lines)
    assert capfd.readouterr() == ("", "")
    bardlet.train(resume=True, out_dir="out/a", max_iters=11, progress=True)
    assert "iter 10: loss" in capfd.readouterr().out
    back = bardlet.train(resume=True, out_dir="out/a", checkpoint="iter-10", max_iters=12)
    assert back.iter == 12


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [(lambda: bardlet.train("demo", lerning_rate=1), UsageError, "did you mean learning_rate?"),
     (lambda: bardlet.train("demo", n_layer="many"), UsageError, "n_layer=many is not an integer"),
     (lambda: bardlet.train("demmo"), UsageError, "Did you mean demo?"),
     (lambda: bardlet.train(budget="soon"), UsageError, "budget=soon is not a time"),
     (lambda: bardlet.train("demo", dataset="gone"), DataError, "no dataset at data/gone"),
     (lambda: bardlet.prepare("words.txt", tokenzier="bpe"), UsageError, "did you mean tokenizer?"),
     (lambda: bardlet.prepare("words.txt", json=True), UsageError, "unknown option json"),
     (lambda: bardlet.prepare("words.txt", vocab_size="9"), UsageError,
      "vocab_size='9' is not a whole number"),
     (lambda: bardlet.prepare("words.txt", val_fraction=True), UsageError, "is not a number"),
     (lambda: bardlet.prepare("words.txt", fresh=1), UsageError, "fresh=1 is not True or False"),
     (lambda: bardlet.prepare("words.txt", out=3), UsageError, "out=3 is not a path"),
     (lambda: bardlet.prepare(), UsageError, "prepare takes sources or"),
     (lambda: bardlet.prepare("gone.txt"), BardletError, "gone.txt"),
     (lambda: bardlet.fit, AttributeError, "has no attribute 'fit'")],
)  # fmt: skip
def test_what_cannot_be(texts: Path, call: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as error:
        call()
    assert message in str(error.value)


def test_pythons_options_are_the_commands() -> None:
    parser = Parser(prog="", description="")
    add_options(parser)
    names = {a.dest for a in parser._actions if a.option_strings} - {"help"}
    assert set(get_type_hints(PrepareOptions)) == names


def test_train_is_the_module_and_the_function(tmp_path: Path) -> None:
    """Whichever is imported first; the package alone imports no torch."""
    result = subprocess.run(
        [sys.executable, "-c", CALLED, *IMPORTS], cwd=tmp_path, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr

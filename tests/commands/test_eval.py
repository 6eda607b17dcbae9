"""The loss of a run at its end: of the whole split, and marked where it is an estimate."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from pytest import CaptureFixture
from support import metrics, tiny_config

from bardlet import cli
from bardlet.commands.eval import best_val_loss
from bardlet.config import to_toml
from bardlet.evaluate import EvalInterrupted
from bardlet.interop import load
from bardlet.interop.huggingface.model_card import model_card
from bardlet.run import run_folder
from bardlet.run.state import Scores

RUN = Path("out/sampled")


@pytest.fixture
def sampled(sent: Path, capsys: CaptureFixture[str]) -> list[str]:
    """The lines of a run whose evaluations are estimates of two batches."""
    config = tiny_config(Path("data/words"), RUN, eval_full=False)
    Path("sampled.toml").write_text(to_toml(config), encoding="utf-8")
    assert cli.main(["train", "sampled.toml"]) == 0
    printed = capsys.readouterr()
    return (printed.out + printed.err).splitlines()


def evaluated(capsys: CaptureFixture[str], *args: str) -> dict[str, Any]:
    assert cli.main(["eval", str(RUN), "--json", "--dtype=float32", *args]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_run_ends_with_its_loss_on_the_whole_split(
    sampled: list[str], capsys: CaptureFixture[str]
) -> None:
    loss = evaluated(capsys)["loss"]
    said = next(line for line in sampled if line.startswith("best val loss"))
    assert float(said.split()[3].strip(";")) == pytest.approx(loss, abs=6e-5)
    scores = run_folder.read_scores(run_folder.find(RUN))
    assert scores is not None and scores.val_loss == pytest.approx(loss, abs=1e-6)
    assert scores.compared != scores.val_loss
    last = run_folder.read_scores(run_folder.find(RUN, "last"))
    assert last is not None and last.val_loss >= scores.val_loss
    assert f"| validation loss, nats per token | {loss:.4f} |" in model_card(
        load.load_model(str(RUN))
    )


def test_an_estimate_says_that_it_is_one(sampled: list[str], capsys: CaptureFixture[str]) -> None:
    config = tiny_config(Path("data/words"), RUN)
    evals = metrics(config, "eval")
    assert [entry["val_batches"] for entry in evals] == [2, 2]
    lines = [line for line in sampled if line.startswith("step ")]
    for line, entry in zip(lines, evals, strict=True):
        assert re.search(rf"val loss ~{entry['val_loss']:.4f} \(2 batches\)$", line)
    folder = run_folder.find(RUN, "last")
    run_folder.write_scores(
        folder, Scores(train_loss=1.0, val_loss=2.0, bits_per_byte=1.5, val_batches=2)
    )
    assert "nats per token, of 2 batches | 2.0000 |" in model_card(load.load_model(str(folder)))
    assert cli.main(["inspect", str(folder)]) == 0
    assert "val loss ~2.0000 (2 batches)" in capsys.readouterr().out


@pytest.mark.parametrize("error", [EvalInterrupted, KeyboardInterrupt])
def test_what_takes_too_long_leaves_the_estimate(
    sampled: list[str], error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(*args: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr("bardlet.commands.eval.eval_run", late)
    config = tiny_config(Path("data/words"), RUN, eval_full=False)
    said: list[str] = []
    assert best_val_loss(config, 1.25, 0.0, said.append) == "~1.2500 (2 batches)"
    assert "bardlet eval out/sampled" in said[-1]


def test_a_run_of_whole_evaluations_is_not_scored_again(sent: Path) -> None:
    config = tiny_config(Path("data/words"), Path("out/a"))
    assert best_val_loss(config, 1.25, math.inf, print) == "1.2500"


def test_what_weights_in_fewer_bits_cost_is_told(
    sampled: list[str], capsys: CaptureFixture[str]
) -> None:
    plain = evaluated(capsys)
    assert "weights" not in plain
    for weights in ("int8", "int4"):
        scores = evaluated(capsys, f"--weights={weights}")
        assert scores["weights"] == weights and scores["dtype"] == "float32"
        assert scores["loss"] - scores["weights_cost"] == pytest.approx(plain["loss"], abs=1e-6)
        assert scores["weights_cost"] != 0


def test_what_keys_and_values_in_8_bits_cost_is_told_beside(
    sampled: list[str], capsys: CaptureFixture[str]
) -> None:
    plain = evaluated(capsys)
    scores = evaluated(capsys, "--cache=int8", "--weights=int8")
    assert scores["cache"] == "int8" and scores["dtype"] == "float32"
    both = scores["weights_cost"] + scores["cache_cost"]
    assert scores["loss"] - both == pytest.approx(plain["loss"], abs=1e-6)
    assert 0 != scores["cache_cost"] != scores["weights_cost"]
    assert cli.main(["eval", str(RUN), "--cache=int8"]) == 0
    assert "keys and values in int8 cost" in capsys.readouterr().out


def test_a_format_that_there_is_not_is_refused(
    sampled: list[str], capsys: CaptureFixture[str]
) -> None:
    for command in ("eval", "sample"):
        assert cli.main([command, str(RUN), "--weights=int3"]) == 2
        assert "Known are auto, float32, bfloat16, int8, int4" in capsys.readouterr().err
        assert cli.main([command, str(RUN), "--cache=int4"]) == 2
        assert "cache=int4 is not known. Known are auto, int8" in capsys.readouterr().err

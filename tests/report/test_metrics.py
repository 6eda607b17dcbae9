"""metrics.jsonl as columns: read on as it grows, whatever is in it, and thinned without loss."""

from __future__ import annotations

import json
import math
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bardlet.report.metrics import Metrics
from bardlet.report.thinning import BUCKETS, thinned


def line(it: int, **values: Any) -> str:
    return json.dumps({"type": "iter", "iter": it, "loss": 2.0, "time_ms": 100.0, **values}) + "\n"


def read(path: Path) -> Metrics:
    metrics = Metrics(path)
    metrics.update()
    return metrics


def test_reading_on_gives_what_reading_at_once_gives(tmp_path: Path) -> None:
    """Whatever parts a file is written in, lines and characters cut through."""
    entries = [line(i, loss=float(i), name="\u4e2d\u6587") for i in range(200)]
    entries.insert(50, json.dumps({"type": "eval", "iter": 50, "val_loss": 1.5}) + "\n")
    data = "".join(entries).encode()
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"")
    growing, draw, at = Metrics(path), random.Random(0), 0
    with path.open("ab", buffering=0) as file:
        while at < len(data):
            size = draw.randrange(1, 700)
            file.write(data[at : at + size])
            at += size
            growing.update()
    whole = read(path)
    assert growing.column("loss").tolist() == whole.column("loss").tolist() == list(range(200))
    assert growing.evals == whole.evals == [{"iter": 50, "val_loss": 1.5}]
    assert growing.damaged == whole.damaged == 0 and not growing.update()


def test_a_file_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(line(0) + line(1) + line(2))
    metrics = read(path)
    other = tmp_path / "other"
    other.write_text(line(0, loss=9.0) * 1 + line(1) + line(2) + line(3))
    other.replace(path)
    metrics.update()
    assert metrics.column("loss").tolist() == [9.0, 2.0, 2.0, 2.0]
    path.write_text(line(0))
    metrics.update()
    assert len(metrics) == 1


def test_iterations_that_were_done_again_replace_those_before(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [line(i) for i in range(5)] + [line(i, loss=1.0) for i in range(3, 7)]
    path.write_text("".join(lines))
    metrics = read(path)
    assert metrics.column("iter").tolist() == list(range(7))
    assert metrics.column("loss").tolist() == [2.0] * 3 + [1.0] * 4


@pytest.mark.parametrize(
    "bad",
    [
        "nonsense", "[1]", "{}", '{"type": "iter"}', '{"type": "iter", "iter": -1}',
        '{"type": "iter", "iter": 1.5}', '{"type": "iter", "iter": "1"}', "[" * 9000, "9" * 9000,
        '{"type": "iter", "iter": %s}' % ("9" * 300), '{"a": "%s"}' % ("a" * 70_000),
    ],
)  # fmt: skip
def test_a_damaged_line_is_counted(bad: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(line(0) + bad + "\n" + line(1) + '{"type": "it')
    metrics = read(path)
    assert (len(metrics), metrics.damaged, metrics.half) == (2, 1, True)


def test_values_that_are_no_numbers_are_unknown(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    bad = ["null", "NaN", "1e999", "-Infinity", '"2"', "true", "[1]", "{}", "9" * 400]
    lines = [f'{{"type": "iter", "iter": {i}, "loss": {value}}}\n' for i, value in enumerate(bad)]
    event = '{"type": "event", "iter": 3, "event": "spike", "loss": NaN, "x": {"y": [1]}}\n'
    path.write_text("".join(lines) + event + '{"type": "other", "iter": 1}\n')
    metrics = read(path)
    assert len(metrics) == len(bad) and np.isnan(metrics.column("loss")).all()
    assert metrics.events == [{"iter": 3, "event": "spike", "loss": None, "x": None}]
    assert metrics.unknown == 1 and metrics.damaged == 0
    assert not np.isnan(metrics.column("seconds")).any()  # of a version that had no times


def test_seconds_are_those_of_all_iterations(tmp_path: Path) -> None:
    """A line every ten iterations has the mean of ten."""
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(line(i, time_ms=200.0) for i in range(0, 100, 10)))
    assert read(path).column("seconds").tolist() == pytest.approx(
        [0.2 * (i + 1) for i in range(0, 100, 10)]
    )


def test_what_is_not_a_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(OSError, match="not a regular file"):
        Metrics(tmp_path / "metrics.jsonl").update()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").symlink_to("/etc/hostname")
    with pytest.raises(OSError, match="leads out of"):
        Metrics(tmp_path / "run" / "metrics.jsonl").update()


@pytest.mark.parametrize("n", [0, 1, 2, 1399, 1400, 1401, 30_000, 600_000])
def test_no_spike_is_lost(n: int) -> None:
    """Least, greatest and mean of each bucket are those of a naive loop."""
    generator = np.random.default_rng(n)
    x, y = np.arange(n, dtype=np.float64) * 3, generator.normal(2, 0.1, n)
    y[generator.random(n) < 0.1] = math.nan
    if n > 100:
        y[n // 3], y[n // 2] = 50.0, -50.0
    curve = thinned(x, y)
    assert len(curve["x"]) <= 2 * BUCKETS
    size = curve["per_point"]
    if size == 1:
        assert curve["x"] == x.tolist()
        return
    assert max(v for v in curve["high"] if v is not None) == 50.0
    assert min(v for v in curve["low"] if v is not None) == -50.0
    for i in range(0, len(curve["x"]), 97):
        part = y[i * size : (i + 1) * size]
        known = part[~np.isnan(part)]
        assert curve["x"][i] == x[min(n, (i + 1) * size) - 1]
        if len(known):
            values = (curve["low"][i], curve["mean"][i], curve["high"][i])
            assert values == pytest.approx((known.min(), known.mean(), known.max()), rel=1e-5)


def test_a_part_without_values_is_a_gap() -> None:
    y = np.full(9000, math.nan)
    y[:100] = 1.0
    curve = thinned(np.arange(9000.0), y)
    assert curve["mean"][0] == 1.0 and curve["mean"][-1] is None and curve["low"][-1] is None


@pytest.mark.slow
def test_a_run_of_600000_iterations_is_read_in_seconds(tmp_path: Path) -> None:
    import time

    path = tmp_path / "metrics.jsonl"
    rest = {"lr": 1e-3, "grad_norm": 0.5, "data_ms": 0.1, "mfu": 0.3, "tokens_per_s": 9e4}
    path.write_text("".join(line(i, tokens=i * 2048, **rest) for i in range(600_000)))
    began = time.process_time()
    metrics = read(path)
    assert len(thinned(metrics.column("iter"), metrics.column("loss"))["x"]) <= BUCKETS
    assert time.process_time() - began < 15

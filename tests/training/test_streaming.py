"""Training on text that comes and goes: what an undisturbed run gives, bit for bit."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support import (
    as_ranks,
    assert_same_end,
    in_child,
    losses,
    silent,
    some_text,
    stop_after,
    tiny_config,
)

from bardlet import cli
from bardlet.config import TrainConfig
from bardlet.data.dataset import streamed
from bardlet.data.dataset.folder import Dataset
from bardlet.data.dataset.loader import Prefetcher, WindowBatches, shuffle_of
from bardlet.data.dataset.permutation import permute
from bardlet.data.dataset.stream import TokenStream
from bardlet.data.dataset.streamed_batches import StreamedBatches
from bardlet.data.prepare import journal, units
from bardlet.data.prepare.journal import replaced_freely
from bardlet.data.prepare.options import Options
from bardlet.data.prepare.pipeline import prepare
from bardlet.data.prepare.stream_writer import StreamWriter
from bardlet.data.prepare.streaming import prepare_stream
from bardlet.data.text.corpus import Corpus, Source
from bardlet.data.text.inputs import of_text
from bardlet.errors import DataError, TrainingError, UsageError
from bardlet.train import Result, train
from bardlet.training import feed, streaming
from bardlet.training.consumer import Consumer
from bardlet.training.streaming import begun

TOKENS, WIDTH = 700, 16  # of a shard, of a window
PER_SHARD = (TOKENS - 1) // WIDTH
CORPUS = Corpus(
    name="words", text=some_text(6000), sources=(Source(name="w.txt", bytes=6000, sha256="0" * 64),)
)
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream of small units that is looked at often."""
    monkeypatch.setattr(streamed, "POLL_S", 0.002)
    monkeypatch.setattr(units, "UNIT", 1000)
    monkeypatch.setattr(units, "WINDOW", 500)
    monkeypatch.setattr(journal, "EVERY_S", 0.0)


def stream(
    folder: Path, *, shards: int = 64, timeout_s: float = 120.0, fresh: bool = False
) -> Dataset:
    """The text as a stream of eight shards, by default all of them on disk at a time."""
    return prepare_stream(
        of_text(CORPUS), folder, Options(shard_tokens=TOKENS), shards=shards, timeout_s=timeout_s,
        fresh=fresh, replacing=replaced_freely, say=silent,
    )  # fmt: skip


def config(folder: Path, out: Path, **changes: object) -> TrainConfig:
    """A run through four and a half shards."""
    options = {"stream": True, "batch_size": 8, "max_iters": 24, "eval_interval": 12}
    return tiny_config(folder, out, **{**options, **changes})


def first_shards(folder: Path, shards: int = 3) -> Path:
    """A stream of which so many shards are there, and nothing writes more."""
    with pytest.raises(DataError, match="nothing has trained"):
        stream(folder, shards=shards, timeout_s=0.01)
    return folder


def assert_goes_on(run: TrainConfig, folder: Path, tmp_path: Path, **how: Any) -> None:
    """A stopped run ends as an undisturbed one beside a preparer that goes on."""
    with ThreadPoolExecutor(1) as threads:
        preparing = threads.submit(stream, folder, **how)
        train(run)
        preparing.result()
    undisturbed = config(stream(tmp_path / "all").folder, tmp_path / "b")
    train(undisturbed)
    assert_same_end(run, undisturbed)


class Ordered(WindowBatches):
    """Windows of an ordinary dataset in the order that a stream's have."""

    def __init__(self, stream: TokenStream, **options: int) -> None:
        super().__init__(**options)
        self.stream = stream

    def find(self, place: int) -> tuple[TokenStream, int]:
        shard, window = divmod(place, PER_SHARD)
        size = min(TOKENS, len(self.stream) - shard * TOKENS)
        count = (size - 1) // WIDTH
        offset, keys = shuffle_of(self.seed, shard, size - count * WIDTH)
        return self.stream, shard * TOKENS + offset + permute(window, count, keys) * WIDTH


def test_each_window_comes_once_in_the_order_of_shards() -> None:
    ids = np.arange(3 * TOKENS + 100)
    batches = StreamedBatches(TOKENS, block_size=WIDTH, batch_size=5, seed=3)
    for start in range(0, len(ids), TOKENS):
        batches.add(TokenStream([ids[start : start + TOKENS]]))
    assert batches.total == 3 * PER_SHARD + 6
    starts: list[int] = []
    it = 0
    while batches.enough(it):
        idx, targets = batches.batch(it)
        assert (targets == idx + 1).all(), "no window crosses a border"
        starts += idx[:, 0].tolist()
        it += 1
    assert len(starts) == len(set(starts)) == batches.total // 5 * 5
    for shard in range(3):
        part = starts[shard * PER_SHARD : (shard + 1) * PER_SHARD]
        assert sorted(np.diff(sorted(part))) == [WIDTH] * (PER_SHARD - 1)
        assert part != sorted(part)
        assert min(part) // TOKENS == max(part) // TOKENS == shard
    # what is still needed, at every iteration
    for it in range(1, 27):
        assert batches.used_up(it) == (5 * it - 1) // PER_SHARD
        assert batches.needs(it) == (5 * it + 4) // PER_SHARD + 1


def test_it_learns_what_an_ordinary_run_of_that_order_learns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = config(stream(tmp_path / "s").folder, tmp_path / "a")
    train(ours)
    whole = prepare(CORPUS, tmp_path / "whole").folder
    theirs = config(whole, tmp_path / "b", stream=False)
    monkeypatch.setattr(
        feed, "batches_of", lambda parts, **options: Ordered(parts[0][0], **options)
    )
    train(theirs)
    assert_same_end(ours, theirs)
    assert streamed.present(tmp_path / "s") == [4, 5, 6, 7]
    assert streamed.read_used(tmp_path / "s") == streamed.Used(
        shards=4, ended=True, out_dir=str(tmp_path / "a")
    )


def dying(cls: type, method: str, at: int | None) -> None:
    """Have this process killed at that call of a method."""
    calls, plain = [0], getattr(cls, method)

    def wrapper(self: Any, *args: Any) -> Any:
        calls[0] += 1
        if calls[0] == at:
            os.kill(os.getpid(), signal.SIGKILL)
        assert len(list(Path("s").rglob("train-*.bin"))) <= 3, "the bound holds at any time"
        return plain(self, *args)

    setattr(cls, method, wrapper)


@forks
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kills_of_both_sides_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    undisturbed = config(stream(Path("all")).folder, Path("a"))
    train(undisturbed)
    disturbed = config(Path("s"), Path("b"))

    def prepare_until(at: int | None) -> int:
        def work() -> None:
            dying(StreamWriter, "append", at)
            stream(Path("s"), shards=3)

        return in_child(work, 240)

    def train_until(at: tuple[type, str, int] | None) -> int:
        def work() -> None:
            dying(*(at or (Prefetcher, "batch", None)))  # type: ignore[arg-type]
            train(disturbed)

        return in_child(work, 240)

    moments = [(Prefetcher, "batch", 4), (Consumer, "release", 2), (Prefetcher, "batch", 8), None]
    with ThreadPoolExecutor(2) as threads:
        preparing = threads.submit(lambda: [prepare_until(at) for at in (2, 4, 3, None)])
        training = threads.submit(lambda: [train_until(at) for at in moments])
        assert training.result() == [-9, -9, -9, 0]
        assert preparing.result()[-1] == 0
    assert_same_end(undisturbed, disturbed)
    evaluated = [tmp_path / name / "checkpoints" / "iter-00000024" / "eval.json" for name in "ab"]
    assert evaluated[0].read_text() == evaluated[1].read_text(), "train loss, too"


@forks
@pytest.mark.slow
def test_two_processes_read_one_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    alone = config(stream(Path("all")).folder, Path("a"), batch_size=4,
                   gradient_accumulation_steps=2)  # fmt: skip
    train(alone)
    both = dataclasses.replace(alone, dataset="s", out_dir="b")
    with ThreadPoolExecutor(1) as threads:
        preparing = threads.submit(lambda: in_child(lambda: stream(Path("s"), shards=3), 240))
        as_ranks(2, lambda: train(both))
        assert preparing.result() == 0
    # equal but for the order of float32 sums, which Muon magnifies
    assert losses(both) == pytest.approx(losses(alone), abs=1e-4)
    assert losses(both, "eval") == pytest.approx(losses(alone, "eval"), abs=1e-4)


@pytest.mark.slow
def test_a_run_ends_with_its_text(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = config(stream(tmp_path / "s").folder, tmp_path / "a", max_iters=1000, eval_interval=500)
    result = train(run)
    windows = 7 * PER_SHARD + (5400 - 7 * TOKENS - 1) // WIDTH
    assert result == Result(
        out_dir=run.out_dir, iter=windows // 8, val_loss=result.val_loss,
        best_val_loss=result.val_loss, train_s=result.train_s, stopped=False,
    )  # fmt: skip
    out = capfd.readouterr().out
    assert "epochs, and a stream ends after one" in out
    assert f"the text of {tmp_path / 's'} ends after 41 iterations" in out
    saved = tomllib.loads((tmp_path / "a" / "config.toml").read_text(encoding="utf-8"))
    assert saved["max_iters"] == 41
    assert len(losses(run)) == 41
    assert len(losses(run, "eval")) == 1


@pytest.mark.slow
def test_without_a_preparer_it_ends_in_time_and_goes_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bardlet.training.consumer.QUIET_S", 0.0)
    folder = first_shards(tmp_path / "s")
    run = config(folder, tmp_path / "a", ddp_timeout=1.0)
    with pytest.raises(TrainingError, match=r"nothing has written .* for 1 s, and shard 3 is not"):
        train(run)
    assert "waiting up to 1 s for shard 3" in capfd.readouterr().err
    # a signal ends the wait as well, with a checkpoint
    asked = dataclasses.replace(run, ddp_timeout=60.0)
    with monkeypatch.context() as patch:
        patch.setattr(Consumer, "waiting", lambda *_: os.kill(os.getpid(), signal.SIGINT) or "...")
        result = train(asked)
    assert result.stopped
    assert result.iter == 3 * PER_SHARD // 8
    # and later the run goes on as if nothing had been
    assert_goes_on(asked, folder, tmp_path, shards=3)


def test_a_stream_that_begins_again_is_taken_up_where_a_run_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where shards that the run does not need fill what may be on disk."""
    folder = stream(tmp_path / "s").folder
    run = config(folder, tmp_path / "a", ddp_timeout=60.0)
    with monkeypatch.context() as patch:
        stop_after(20, patch)
        assert train(run).stopped
    with pytest.raises(DataError, match="nothing has trained"):
        stream(folder, shards=2, timeout_s=0.01, fresh=True)
    assert streamed.present(folder) == [0, 1]
    assert_goes_on(run, folder, tmp_path, shards=2, timeout_s=60.0)


def test_a_run_waits_while_the_validation_text_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And for its timeout after that; the clock goes on only while the run sleeps."""
    clock = [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds
        if clock[0] > 20:
            writing.close()

    monkeypatch.setattr(streamed, "POLL_S", 1.0)
    monkeypatch.setattr(streaming, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))
    with contextlib.ExitStack() as writing:
        writing.enter_context(journal.StagingFolder(tmp_path / "s", "").held())
        with pytest.raises(DataError, match="nothing has begun the stream"):
            begun(str(tmp_path / "s"), 5.0)
    assert clock[0] == pytest.approx(26, abs=1)


def test_what_is_gone_is_said_and_comes_again(tmp_path: Path) -> None:
    folder = stream(tmp_path / "s").folder
    train(config(folder, tmp_path / "a"))
    with pytest.raises(DataError, match=r"iteration 0 needs shard 0 .*before 4 are gone: .*/a has"):
        train(config(folder, tmp_path / "b"))
    with streamed.training(folder), pytest.raises(DataError, match="another process trains on"):
        train(config(folder, tmp_path / "b"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stream": False}, "is a stream, whose text is removed when it was trained on"),
        ({"eval_only": True}, "eval_only does not go with stream"),
        ({"stages": 2}, "stages=2 does not go with stream"),
        ({"block_size": 1024}, "shards of 700 tokens have no window of 1024"),
        ({"batch_size": 128}, "takes up to 4 shards, and 3 of 700 are on disk at a time"),
        ({"dataset": "a:1,b:1"}, "a stream is trained on alone"),
    ],
)
def test_what_does_not_go_with_a_stream_is_refused(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    folder = first_shards(tmp_path / "s")
    with pytest.raises(UsageError, match=words):
        train(config(folder, tmp_path / "a", **changes))


def test_commands_refuse_in_one_line(
    dataset_folder: Path, refused: Callable[..., str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    first_shards(Path("data/s"))
    options = ["shakespeare-char", "--stream", "--device=cpu"]
    text = refused("train", *options, f"--dataset={dataset_folder}", code=2)
    assert "is not a stream: all of its text is there" in text
    assert "a stream is one pass" in refused("train", *options, "--dataset=s", "--epochs=2", code=2)
    text = refused("train", *options, "--dataset=none", "--ddp_timeout=1", code=1)
    assert "nothing has begun the stream data/none for 1 s" in text
    assert "Add --stream" in refused("train", "--dataset=s", "--budget=5s", code=2)
    assert "which no mixture" in refused(
        "train", "shakespeare-char", "--dataset=s:1,words:1", code=2
    )
    assert cli.main(["inspect", "data/s", "--json"]) == 0

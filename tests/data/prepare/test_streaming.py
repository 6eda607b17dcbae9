"""Training text that comes and goes: the tokens of an ordinary dataset, never more than asked."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import in_child, some_text

from bardlet import cli
from bardlet.data.dataset import streamed
from bardlet.data.dataset.folder import Dataset
from bardlet.data.dataset.stream import map_shard
from bardlet.data.dataset.streamed import Used
from bardlet.data.prepare import journal
from bardlet.data.prepare.stream_writer import StreamWriter
from bardlet.data.tokenizers import base as tokenizers
from bardlet.data.tokenizers import bpe_encoding, bpe_training
from bardlet.data.tokenizers.bpe import BPETokenizer
from bardlet.errors import DataError
from bardlet.io.atomic import write_json
from bardlet.io.safe_read import read_json

SHARDS, TOKENS = 3, 1500


@pytest.fixture(autouse=True)
def quick(small_units: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Small texts with many units, looked at often, in a folder of their own."""
    monkeypatch.setattr(streamed, "POLL_S", 0.001)
    monkeypatch.setattr(journal, "EVERY_S", 0.0)
    monkeypatch.chdir(tmp_path)


def texts() -> None:
    """Thirty documents in a folder, and one long text."""
    Path("docs").mkdir()
    for number in range(30):
        Path(f"docs/{number:02}.txt").write_text(some_text(900, seed=number), encoding="utf-8")
    Path("long.txt").write_text(some_text(20_000, seed=99), encoding="utf-8")


def prepared(*args: str) -> int:
    return cli.main(["prepare", *args, f"--shard_tokens={TOKENS}"])


def stream(*args: str, timeout: float = 20) -> int:
    options = ["--stream", f"--stream_shards={SHARDS}", f"--stream_timeout={timeout}"]
    return prepared(*args, "--out=data/s", *options)


class Reader:
    """What a run does with a stream: reads its shards in order and has the used ones removed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.read = folder, 0
        self.ids: list[np.ndarray] = []

    def step(self) -> bool:
        """Read the next shard if it is there; whether it was."""
        if self.read not in streamed.present(self.folder):
            return False
        self.ids.append(np.array(map_shard(streamed.shard_path(self.folder, self.read))))
        self.read += 1
        streamed.mark_used(self.folder, Used(shards=self.read))
        return True

    def finished(self) -> bool:
        info = streamed.info_of(self.folder)
        return info is not None and info.finished

    @contextlib.contextmanager
    def beside(self) -> Iterator[None]:
        """Read all there is in a thread, while the body prepares it."""
        over = threading.Event()

        def work() -> None:
            while not over.is_set() or self.read in streamed.present(self.folder):
                if not self.step():
                    time.sleep(0.001)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def counting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The files of training text on disk, those that grow too, whenever one was begun or named."""
    counts: list[int] = []

    def counted(method: Callable[..., None]) -> Callable[..., None]:
        def wrapper(self: StreamWriter, **options: Any) -> None:
            method(self, **options)
            counts.append(len(list(self.out.rglob("train-*.bin"))))

        return wrapper

    for name in ("open", "publish"):
        monkeypatch.setattr(StreamWriter, name, counted(getattr(StreamWriter, name)))
    return counts


@pytest.mark.parametrize(
    "sources",
    [["docs", "--tokenizer=byte"], ["long.txt"], ["docs", "--val=long.txt"],
     pytest.param(["docs", "long.txt", "--split=blocks", "--distinct"], marks=pytest.mark.slow)],
    ids=["by document", "by position", "given", "blocks"],
)  # fmt: skip
def test_the_tokens_are_those_of_an_ordinary_dataset(
    sources: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts()
    assert prepared(*sources, "--out=data/whole") == 0
    counts, reader = counting(monkeypatch), Reader(Path("data/s"))
    with reader.beside():
        assert stream(*sources) == 0
    whole, there = Dataset(Path("data/whole")), Dataset(Path("data/s"))
    train, val = (whole.splits[split].read(0, 1 << 20) for split in ("train", "val"))
    np.testing.assert_array_equal(np.concatenate(reader.ids), train)
    np.testing.assert_array_equal(there.splits["val"].read(0, 1 << 20), val)
    assert [len(ids) for ids in reader.ids[:-1]] == [TOKENS] * (-(-len(train) // TOKENS) - 1)
    assert 1 < max(counts) <= SHARDS, "files at any time, the growing one too"
    assert there.stream and there.stream.finished and there.stream.tokens == len(train)
    assert there.about and whole.about
    assert there.about.sources == whole.about.sources
    assert there.about.splits["train"].characters == whole.about.splits["train"].characters


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks")
def test_a_preparer_that_is_killed_anywhere_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    texts()
    assert prepared("docs", "--out=data/whole") == 0
    reader, append = Reader(Path("data/s")), StreamWriter.append
    generator = np.random.default_rng(7)
    codes = []
    while not reader.finished():
        left = [int(generator.integers(1, 8))]

        def dying(self: StreamWriter, *args: Any) -> None:
            left[0] -= 1  # noqa: B023
            if not left[0]:  # noqa: B023
                os._exit(9)
            append(self, *args)

        monkeypatch.setattr(StreamWriter, "append", dying)
        codes.append(in_child(lambda: exit_if(stream("docs", timeout=0.02))))
        assert len(list(Path("data/s").rglob("train-*.bin"))) <= SHARDS
        if generator.random() < 0.8:
            while reader.step():
                pass
    while reader.step():
        pass
    assert codes.count(9) > 2
    assert codes[-1] == 0
    whole = Dataset(Path("data/whole"))
    np.testing.assert_array_equal(
        np.concatenate(reader.ids), whole.splits["train"].read(0, 1 << 20)
    )
    names = sorted(path.name for path in Path("data/s").glob("[!v]*"))
    assert names == ["manifest.json", "tokenizer.json", "used.json"]


@pytest.mark.skipif(not bpe_encoding.core(), reason="there is no core")
def test_only_what_is_written_is_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("long.txt").write_text(some_text(60_000), encoding="utf-8")
    Path("bpe.json").write_text(bpe_training.train(some_text(9000), 400), encoding="utf-8")
    sizes, encode = [], BPETokenizer.encode_utf8

    def counted(self: BPETokenizer, raw: bytes) -> np.ndarray:
        sizes.append(len(raw))
        return encode(self, raw)

    monkeypatch.setattr(BPETokenizer, "encode_utf8", counted)
    with Reader(Path("data/s")).beside():
        assert stream("long.txt", "--tokenizer=bpe.json", "--workers=1") == 0
    # the text once, of the part at the split both sides twice, and a few samples
    assert 60_000 <= sum(sizes) < 70_000


def test_it_may_go_on_while_it_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    texts()
    assert stream("long.txt", timeout=0.05) == 1
    path, load = Path("data/s/manifest.json"), tokenizers.load
    changes = {"tokens": 7, "finished": True}

    def loading(*args: Any) -> Any:
        begun = read_json(path)
        write_json(path, {**begun, "stream": {**begun["stream"], **changes}})
        return load(*args)

    monkeypatch.setattr(tokenizers, "load", loading)
    assert Dataset(Path("data/s")).vocab_size
    changes["key"] = "another"
    with pytest.raises(DataError, match="was prepared again while it was opened"):
        Dataset(Path("data/s"))


def exit_if(code: int) -> None:
    """End this process as a command with that exit code would."""
    if code:
        os._exit(code)


def test_it_waits_for_training_and_ends_where_nothing_trains(
    refused: Callable[..., str], capfd: pytest.CaptureFixture[str]
) -> None:
    texts()
    assert stream("long.txt", timeout=0.05) == 1
    err = capfd.readouterr().err
    assert "3 shards of data/s are ready, and nothing trains on them: waiting up to 0.05 s" in err
    assert "nothing has trained on data/s for 0.05 s, and its 3 shards are full" in err
    assert "data/s has its validation text: 2,000 tokens. Training may begin" in err
    streamed.mark_used(Path("data/s"), Used(shards=1, ended=True, out_dir="out/a"))
    assert stream("long.txt") == 0
    assert "training has ended in out/a: the rest" in capfd.readouterr().err
    assert streamed.present(Path("data/s")) == [1, 2]
    assert cli.main(["inspect", "data/s"]) == 0
    assert (
        "train: a stream of about 18,000 tokens in shards of 1,500, at most 3 at a time; shards "
        "on disk: 1, 2; 1 used up by out/a; not finished: the same `bardlet prepare` goes on; "
        "the run has ended"
    ) in capfd.readouterr().out
    # another text takes its place only when nothing trains on it
    with streamed.training(Path("data/s")):
        message = refused("prepare", "docs", "--stream", "--out=data/s", code=1)
    assert "a run trains on data/s, which is another stream" in message
    # and the same one begins again
    assert stream("long.txt", "--fresh", timeout=0.05) == 1
    assert streamed.present(Path("data/s")) == [0, 1, 2]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["long.txt", "--stream_shards=1"], "stream_shards=1 must be at least 2"),
        (["long.txt", "--stream_timeout=0"], "stream_timeout=0 must be above 0"),
        (["docs", "--part=1/2", "--tokenizer=byte"], "--stream does not go with --part"),
        (["pairs.jsonl", "--prompt_key=q", "--response_key=a"], "are prepared whole"),
        (["nothing.txt"], "nothing.txt"),
    ],
)
def test_what_cannot_be_streamed_is_refused(
    args: list[str], words: str, refused: Callable[..., str]
) -> None:
    texts()
    lines = "".join(f'{{"q": "{i}?", "a": "yes {i}"}}\n' for i in range(40))
    Path("pairs.jsonl").write_text(lines, encoding="utf-8")
    assert words in refused("prepare", *args, "--stream")
    assert not Path("data").exists()


def test_standard_input_is_refused(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts()
    with Path("long.txt").open(encoding="utf-8") as file:
        monkeypatch.setattr("sys.stdin", file)
        assert "standard input is gone then" in refused("prepare", "-", "--stream")


def test_an_empty_text_is_refused(refused: Callable[..., str]) -> None:
    Path("empty.txt").write_bytes(b"")
    assert "empty" in refused("prepare", "empty.txt", "--stream")
    assert not Path("data/empty").exists()


def test_a_damaged_note_of_what_was_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "used.json").write_text('{"shards": "x"}', encoding="utf-8")
    with pytest.raises(DataError, match=r"used.json is damaged"):
        streamed.read_used(tmp_path)

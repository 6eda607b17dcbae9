"""`prepare --stream`: the validation text first, then training text as fast as it is used.

The sources are read twice: for validation, which stays on disk whole, and for training, of which
a few shards are there at a time. The tokens of both are those of an ordinary dataset.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from bardlet.data.dataset import streamed
from bardlet.data.dataset.folder import Dataset
from bardlet.data.dataset.streamed import StreamInfo
from bardlet.data.prepare import manifest
from bardlet.data.prepare.encode_spec import EncodeSpec
from bardlet.data.prepare.journal import Replacing, StagingFolder
from bardlet.data.prepare.options import Options, check_folder, with_split
from bardlet.data.prepare.shards import SplitWriter
from bardlet.data.prepare.stream_writer import StreamWriter, TrainingEnded
from bardlet.data.prepare.survey import Survey
from bardlet.data.prepare.work import Say, Work
from bardlet.data.text.inputs import Collection
from bardlet.data.tokenizers import base as tokenizers
from bardlet.data.tokenizers import factory
from bardlet.errors import DataError, UsageError
from bardlet.io.atomic import write_json
from bardlet.io.safe_read import read_json

MIN_SHARDS = 2  # one that is used while the other one grows


def prepare_stream(
    collection: Collection, out: Path, options: Options, *, shards: int, timeout_s: float,
    fresh: bool, replacing: Replacing, say: Say,
) -> Dataset:  # fmt: skip
    """Write `collection` as a stream at `out`, of which `shards` shards of training text are on
    disk at most, and return it opened when all of it is written or training has ended.

    What a killed process has begun is continued, unless `fresh`. Waits for training where it has
    not used enough, up to `timeout_s` while nothing trains. Raises as `pipeline.prepare` does.
    """
    options = dataclasses.replace(options, stream=True)
    check(collection, options, shards, timeout_s)
    check_folder(out)
    collection, options = with_split(collection, options, say)
    key = key_of(collection, options)
    if streamed.alive(out / streamed.PREPARING, streamed.PATIENCE_S):
        raise DataError(f"another process is preparing {out}", "Wait for it, or name another --out")
    StagingFolder(out, key, replacing, patience_s=streamed.PATIENCE_S).recover()
    there = info_at(out)
    if there and there.key == key and not fresh:
        if there.finished:
            say(f"{out} was streamed to its end; --fresh begins it again")
            return Dataset(out)
    else:
        if streamed.alive(out / streamed.TRAINING):
            raise DataError(f"a run trains on {out}, which is another stream", "Stop it first")
        begin(collection, out, options, key, shards, replacing, say)
    place = StagingFolder(out / "stream", key, patience_s=streamed.PATIENCE_S)
    with place.held() as noted:
        info = streamed.info_of(out)
        assert info, "which was begun"
        info = dataclasses.replace(info, shards=shards)
        begun = read_json(out / "manifest.json")
        write_json(out / "manifest.json", {**begun, "stream": dataclasses.asdict(info)})
        work = Arriving(collection, options, place, say, out=out, info=info, timeout_s=timeout_s)
        try:
            finished, _ = work.run(noted)
        except TrainingEnded:
            run = streamed.read_used(out).out_dir
            say(f"training has ended in {run}: the rest of the text is not needed")
            return Dataset(out)
        write_json(out / "manifest.json", finished)
        (out / "survey.json").unlink(missing_ok=True)
        place.kept = False
    return Dataset(out)


def check(collection: Collection, options: Options, shards: int, timeout_s: float) -> None:
    """Raise UsageError for what cannot be streamed."""
    options.check()
    if shards < MIN_SHARDS:
        raise UsageError(f"stream_shards={shards} must be at least {MIN_SHARDS}")
    if not timeout_s > 0:
        raise UsageError(f"stream_timeout={timeout_s:g} must be above 0")
    if options.part[1] > 1:
        raise UsageError("--stream does not go with --part: one process writes a stream")
    if options.reading.masked:
        raise UsageError(
            "--stream is for text: conversations and prompts with responses are prepared whole",
            "Leave --stream out",
        )
    if any(entry.name == "-" for entry in collection.inputs):
        raise UsageError(
            "--stream reads its sources again after a kill, and standard input is gone then",
            "Give it a file",
        )


def key_of(collection: Collection, options: Options) -> str:
    """What a stream is made of and how, as a hash; it is another one for another text."""
    inputs = [
        (i.name, i.path, i.bytes, i.modified, i.sample, i.text and manifest.of_memory(i)["sha256"])
        for i in collection.inputs
    ]
    return hashlib.sha256(json.dumps([inputs, options.noted()]).encode()).hexdigest()


def info_at(out: Path) -> StreamInfo | None:
    """What is said of the stream at `out`; None where there is none that can be read."""
    try:
        return streamed.info_of(out)
    except DataError:
        return None


def begin(
    collection: Collection, out: Path, options: Options, key: str, shards: int,
    replacing: Replacing, say: Say,
) -> None:  # fmt: skip
    """Make the dataset at `out` with all of its validation text, and no text for training."""
    place = StagingFolder(out, key, replacing, patience_s=streamed.PATIENCE_S)
    check_room(collection, options, shards, out)
    with place.held() as noted:
        info = StreamInfo(key=key, shards=shards, shard_tokens=options.shard_tokens, tokens=0)
        work = Validation(collection, options, place, say, info=info)
        described, _ = work.run(noted)
        place.publish(described)
    val = described["splits"]["val"]
    say(f"{out} has its validation text: {val['tokens']:,} tokens. Training may begin")


def check_room(collection: Collection, options: Options, shards: int, out: Path) -> None:
    """Raise DataError where the disk has most likely not the room for what is there at a time."""
    sizes = [(entry.split, entry.bytes * (4 if entry.compression else 1))
             for entry in collection.inputs]  # fmt: skip
    per_byte = 2.0 if options.tokenizer in ("char", "byte") else 0.5
    share = {"val": 1.0, "train": 0.0}
    val = sum(share.get(split, options.val_fraction) * size for split, size in sizes)
    total = sum(size for _, size in sizes) or float("inf")
    train = min(4.0 * options.shard_tokens * shards, per_byte * total)
    parent = next(p for p in out.absolute().parents if p.exists())
    free = shutil.disk_usage(parent).free
    if per_byte * val + train > free:
        raise DataError(
            f"{out} takes about {per_byte * val / 1e9:.1f} GB for validation and "
            f"{train / 1e9:.1f} GB for {shards} shards, and its disk has {free / 1e9:.1f} GB",
            "Give the validation text with --val or lower --val_fraction, lower --stream_shards or "
            "--shard_tokens",
        )


class Validation(Work):
    """The part of a stream that is there from its beginning."""

    splits = ("val",)

    def __init__(
        self, collection: Collection, options: Options, place: StagingFolder, say: Say, *,
        info: StreamInfo,
    ) -> None:  # fmt: skip
        super().__init__(collection, options, place, say)
        self.info = info

    def run(self, noted: dict[str, Any]) -> tuple[dict[str, Any], tokenizers.Tokenizer]:
        spec, encoder, seen = self.surveyed(noted)
        if self.options.split == "given":  # its sources are the first ones
            inputs = tuple(entry for entry in self.collection.inputs if entry.split == "val")
            self.collection = dataclasses.replace(self.collection, inputs=inputs)
        splits = self.write(spec, encoder, seen, noted, None)
        write_json(self.place.folder / "survey.json", seen.noted())
        return self.described(encoder, splits["val"]), encoder

    def check(self, writers: dict[str, SplitWriter]) -> None:
        if not writers["val"].sums["tokens"]:
            tokens = {"train": 1, "val": 0}
            manifest.check_tokens(tokens, self.collection.name, self.options.split)

    def described(self, encoder: tokenizers.Tokenizer, val: dict[str, Any]) -> dict[str, Any]:
        """The manifest of a stream that begins."""
        given = self.options.split == "given"  # so that the inputs are those of the validation text
        taken = sum(entry.bytes for entry in self.collection.inputs) if given else val["bytes"]
        size = self.size - taken
        tokens = max(0, round(size * val["tokens"] / val["bytes"]))
        nothing = {"documents": 0, "characters": 0, "bytes": 0, "tokens": 0, "shards": []}
        kind = self.options.tokenizer
        described = manifest.describe(
            self.collection.name, encoder, {"train": nothing, "val": val},
            tokenizer=kind if kind in factory.OURS else encoder.kind,
            split={"by": self.options.split, "val_fraction": self.options.val_fraction},
            end_of_text=encoder.end_of_text if self.borders else None,
            masked=False, options=self.options.noted(), sources=[], counts={},
            notes=list(self.collection.notes),
            stream=dataclasses.asdict(dataclasses.replace(self.info, tokens=tokens)),
        )  # fmt: skip
        # the training text is known by what it is made of
        text = f"{described['hash']} {self.info.key}"
        return {**described, "hash": hashlib.sha256(text.encode()).hexdigest()}


class Arriving(Work):
    """The training text of a stream."""

    splits = ("train",)

    def __init__(
        self, collection: Collection, options: Options, place: StagingFolder, say: Say, *,
        out: Path, info: StreamInfo, timeout_s: float,
    ) -> None:  # fmt: skip
        super().__init__(collection, options, place, say)
        self.out, self.info, self.timeout_s = out, info, timeout_s

    def survey(
        self, spec: EncodeSpec, noted: dict[str, Any]
    ) -> tuple[Survey, tokenizers.Tokenizer]:
        seen = Survey(**read_json(self.out / "survey.json"))
        if noted:
            self.say(f"going on with {self.out} after {noted['units']:,} units")
        return seen, self.opened(self.out, seen)

    def writer(
        self, split: str, spec: EncodeSpec, width: int, state: dict[str, Any] | None
    ) -> SplitWriter:
        return StreamWriter(
            self.place.folder, self.out, self.info, width, timeout_s=self.timeout_s, say=self.say,
            state=state,
        )  # fmt: skip

    def check(self, writers: dict[str, SplitWriter]) -> None:
        tokens = {"train": writers["train"].sums["tokens"], "val": 1}
        manifest.check_tokens(tokens, self.collection.name, self.options.split)

    def describe(
        self, encoder: tokenizers.Tokenizer, splits: dict[str, Any], sources: manifest.Sources
    ) -> dict[str, Any]:
        """The manifest of the whole text, whose hash is as it was."""
        begun = read_json(self.out / "manifest.json")
        described = {**begun["splits"], "train": splits["train"]}
        whole = super().describe(encoder, described, sources)
        tokens = splits["train"]["tokens"]
        info = dataclasses.replace(self.info, tokens=tokens, finished=True)
        self.say(f"{self.out} is whole: {tokens:,} tokens of training text")
        return {**whole, "hash": begun["hash"], "stream": dataclasses.asdict(info)}

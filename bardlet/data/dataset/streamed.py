"""A dataset whose training text comes and goes: `prepare --stream` writes, `train --stream` uses.

    manifest.json  tokenizer.json  val-00000.bin    whole from the beginning, and stay
    train-00000.bin  train-00001.bin ...            each from when it is whole until it is used
    used.json                                       how many of them have been used up

Both sides hold a lock for as long as they live, so that each knows whether the other one does.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bardlet.data.dataset.stream import TokenStream, map_shard
from bardlet.errors import DataError
from bardlet.io.atomic import write_json
from bardlet.io.safe_read import read_json
from bardlet.io.schema import read, to_json

POLL_S = 0.2  # between two looks at what the other side has done
PATIENCE_S = 2.0  # in which a lock that another process only looks at is free again
PREPARING, TRAINING = ".stream.lock", ".training.lock"
SHARD = re.compile(r"train-(\d{5,})\.bin")


@dataclass(frozen=True, kw_only=True)
class StreamInfo:
    """What the manifest says of a stream."""

    key: str  # what its text is made of, and how
    shards: int  # at most so many are on disk
    shard_tokens: int  # in each but the last
    tokens: int  # of the training text: an estimate until it is finished
    finished: bool = False  # whether all of the text has become shards


@dataclass(frozen=True, kw_only=True)
class Used:
    """used.json: what training has done with a stream."""

    shards: int = 0  # that are used up, and gone
    ended: bool = False  # whether the run has come to its end
    out_dir: str = ""  # of the run


def shard_path(folder: Path, index: int) -> Path:
    """The file of a shard of training text, which is there from when it is whole."""
    return folder / f"train-{index:05d}.bin"


def staging_lock(folder: Path) -> Path:
    """What a process holds while it makes a dataset of that name, or a stream's validation text."""
    return folder.with_name(f".{folder.name}.lock")


def present(folder: Path) -> list[int]:
    """The shards that are on disk, in order."""
    matches = (SHARD.fullmatch(path.name) for path in folder.glob("train-*.bin"))
    return sorted(int(match[1]) for match in matches if match)


def read_used(folder: Path) -> Used:
    """What has been used; DataError where that cannot be read."""
    try:
        return read(Used, read_json(folder / "used.json"))
    except FileNotFoundError:
        return Used()
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / 'used.json'} is damaged: {error}") from None


def mark_used(folder: Path, used: Used) -> None:
    """Note what has been used, then remove it: in this order, nothing is used that is not noted."""
    write_json(folder / "used.json", to_json(used))
    for index in present(folder):
        if index < used.shards:
            with contextlib.suppress(PermissionError):  # Windows removes no file that is open
                shard_path(folder, index).unlink(missing_ok=True)


def info_of(folder: Path) -> StreamInfo | None:
    """What the manifest says of the stream in a folder; None where there is no stream."""
    try:
        manifest = read_json(folder / "manifest.json")
        return read(StreamInfo, manifest["stream"]) if manifest.get("stream") else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{folder / 'manifest.json'} is damaged: {error}") from None


def goes_on(folder: Path, info: StreamInfo | None) -> bool:
    """Whether a folder has this stream still, at most with more of its text."""
    there = info_of(folder) if info else None
    return bool(info and there and there.key == info.key)


def alive(lock: Path, patience_s: float = 0.0) -> bool:
    """Whether a process holds the lock, for all of `patience_s`; the system lets go of it when the
    process ends.
    """
    from filelock import FileLock, Timeout

    if not lock.exists():
        return False
    probe = FileLock(lock, timeout=patience_s)
    try:
        probe.acquire()
    except Timeout:
        return True
    except OSError as error:
        raise DataError(f"cannot write to {lock.parent}: {error.strerror}") from None
    probe.release()
    return False


@contextlib.contextmanager
def training(folder: Path) -> Iterator[None]:
    """A context in which this process is the one that trains on a stream."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / TRAINING, timeout=PATIENCE_S)
    try:
        lock.acquire()
    except Timeout:
        raise DataError(
            f"another process trains on the stream {folder}",
            "Wait for it, or prepare the text for this run too with another --out",
        ) from None
    except OSError as error:
        raise DataError(f"cannot write to {folder}: {error.strerror}") from None
    try:
        yield
    finally:
        lock.release()


def state_of(folder: Path) -> dict[str, object]:
    """How far a stream is, as JSON values: its shards on disk, those used, who works on it."""
    used = read_used(folder)
    return {
        "on_disk": present(folder), "used": used.shards, "used_by": used.out_dir,
        "ended": used.ended, "preparing": alive(folder / PREPARING),
        "training": alive(folder / TRAINING),
    }  # fmt: skip


def describe(info: StreamInfo, state: Mapping[str, Any]) -> str:
    """The training text of a stream and how far it is, for people."""
    about = "" if info.finished else "about "
    shards = state["on_disk"]
    by = f" by {state['used_by']}" if state["used_by"] else ""
    here = f"shards on disk: {', '.join(map(str, shards)) or 'none'}"
    who = [
        "written to its end" if info.finished else "being written" if state["preparing"] else
        "not finished: the same `bardlet prepare` goes on",
        *["a run trains on it"] * state["training"], *["the run has ended"] * state["ended"],
    ]  # fmt: skip
    return (
        f"a stream of {about}{info.tokens:,} tokens in shards of {info.shard_tokens:,}, at most "
        f"{info.shards} at a time; {here}; {state['used']} used up{by}; {'; '.join(who)}"
    )


class StreamedText(TokenStream):
    """The training text of a stream as far as it is on disk, or one shard of it."""

    def __init__(self, folder: Path, vocab_size: int) -> None:
        """All shards that are there now; one that goes meanwhile is left out."""
        shards = []
        for index in present(folder):
            with contextlib.suppress(DataError):
                shards.append(map_shard(shard_path(folder, index)))
        super().__init__(shards, vocab_size)

    def show(self, shard: TokenStream) -> None:
        """Be the text of one shard from now on, and let go of all others."""
        self.shards, self.masks, self.ends = shard.shards, shard.masks, shard.ends

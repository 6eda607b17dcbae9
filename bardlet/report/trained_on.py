"""What a run was trained on, where it still lies: its facts, and what counting reaches on it.

That takes seconds, so that a page asks for it in the background and shows it when it is there.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

from bardlet.data.dataset import mixture
from bardlet.data.dataset.folder import Dataset
from bardlet.errors import BardletError
from bardlet.report import reference
from bardlet.run.state import RunState


class Background:
    """Looks into datasets, once each, in a thread of its own or while the caller waits."""

    def __init__(self, *, wait: bool = False) -> None:
        self.wait = wait
        self.asked: dict[tuple[str, str], Future[dict[str, Any]]] = {}
        self.lock = threading.Lock()

    @property
    def done(self) -> int:
        """How many answers there are."""
        return sum(future.done() for future in list(self.asked.values()))

    def ask(self, saved: RunState | None, start: dict[str, Any]) -> dict[str, Any]:
        """`data`, facts of the dataset, and `reference`, losses to compare with, as far as known.

        Of a run without a checkpoint only the loss of equal chances is known for sure.
        """
        size = start.get("vocab_size")
        levels = [reference.uniform(size)] if isinstance(size, int) and size > 1 else []
        plain = {"data": None, "reference": levels}
        if saved is None or not saved.dataset.name:
            return plain
        key = (saved.dataset.name, saved.dataset.hash)
        with self.lock:
            if key not in self.asked:
                self.asked[key] = begun(*key)
            future = self.asked[key]
        if not self.wait and not future.done():
            return plain
        return {**plain, **{k: v for k, v in future.result().items() if v}}


def begun(name: str, tokens_hash: str) -> Future[dict[str, Any]]:
    """The facts of a dataset, from a thread that no exit waits for."""
    future: Future[dict[str, Any]] = Future()

    def work() -> None:
        try:
            future.set_result(facts(name, tokens_hash))
        except BaseException as error:  # for who asks
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future


def facts(name: str, tokens_hash: str) -> dict[str, Any]:
    """`data` and `reference` of a dataset; empty where it is not here as it was."""
    try:
        dataset = mixture.opened(name)
        if dataset.hash != tokens_hash:
            return {}
        return {"data": described(dataset), "reference": reference.lines(dataset)}
    except (BardletError, OSError, ValueError, ArithmeticError, MemoryError):
        return {}


def described(dataset: Dataset) -> dict[str, Any]:
    """What a page shows of a dataset."""
    about = dataset.about
    splits = {
        name: {"tokens": len(stream), **({
            "documents": about.splits[name].documents, "characters": about.splits[name].characters,
            "bytes": about.splits[name].bytes,
        } if about else {})}
        for name, stream in dataset.splits.items()
    }  # fmt: skip
    val = dataset.splits["val"]
    end = val.read(max(0, len(val) - 60), 60).tolist()
    return {
        "name": about.name if about else dataset.folder.name, "splits": splits,
        "tokenizer": dataset.tokenizer.kind, "vocab_size": dataset.vocab_size,
        "common": reference.common_tokens(dataset),
        "begins": dataset.tokenizer.decode(val.read(0, 60).tolist()),
        "ends": dataset.tokenizer.decode(end),
    }  # fmt: skip

"""What a corpus is made of: its inputs in order, before anything of them is read."""

from __future__ import annotations

from dataclasses import dataclass, field

from bardlet.data.text import corpus
from bardlet.data.text.counts import Counts


@dataclass(frozen=True, kw_only=True)
class Input:
    """A file, a text in memory or a data set on the hub. `bytes` is 0 where it is not known."""

    name: str
    kind: str  # a value of formats.KINDS, "memory" or "hub"
    compression: str = ""
    path: str = ""
    bytes: int = 0
    modified: int = 0  # ns
    text: str = ""
    sample: int = 0  # bytes after which a data set on the hub ends; 0: never
    split: str = ""  # what the user gave it for, train or val; empty: as the rule of splitting says

    @property
    def shown(self) -> str:
        """The name in messages."""
        return "stdin" if self.name == "-" else self.name


@dataclass(frozen=True, kw_only=True)
class Collection:
    """Inputs in order, the default name of their dataset, remarks, and what was passed over."""

    name: str
    inputs: tuple[Input, ...]
    notes: tuple[str, ...] = ()
    counts: Counts = field(default_factory=Counts)
    sources: tuple[corpus.Source, ...] = ()  # of texts in memory

    @property
    def single(self) -> bool:
        """Whether this is one text, with or without one for validation: there are no borders."""
        val = [entry.split == "val" for entry in self.inputs]
        loose = all(entry.kind in ("text", "memory") for entry in self.inputs)
        return loose and val.count(False) == 1 and val.count(True) <= 1


def of_text(text: corpus.Corpus) -> Collection:
    """A collection of one text that is in memory."""
    entry = Input(name=text.name, kind="memory", text=text.text, bytes=len(text.text))
    return Collection(name=text.name, inputs=(entry,), notes=text.notes, sources=text.sources)

"""The making of one dataset: its units in order, tokenized, written and described."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bardlet.data.dataset.folder import SPLITS
from bardlet.data.prepare import encoding, manifest, workers
from bardlet.data.prepare.distinct import Distinct
from bardlet.data.prepare.encode_spec import EncodeSpec
from bardlet.data.prepare.journal import StagingFolder
from bardlet.data.prepare.options import Options, has_borders
from bardlet.data.prepare.progress import bar
from bardlet.data.prepare.remarks import slow, unended, uneven
from bardlet.data.prepare.shards import SplitWriter
from bardlet.data.prepare.survey import Survey, Tally, survey
from bardlet.data.prepare.units import Unit, units
from bardlet.data.text.counts import Counts
from bardlet.data.text.inputs import Collection
from bardlet.data.text.records import Piece
from bardlet.data.tokenizers import base as tokenizers
from bardlet.data.tokenizers import factory
from bardlet.errors import DataError
from bardlet.io.atomic import write_text

Say = Callable[[str], None]


class Work:
    """The making of one dataset in its workplace."""

    splits: Sequence[str] = SPLITS  # that are written

    def __init__(
        self, collection: Collection, options: Options, place: StagingFolder, say: Say,
        again: str = "",
    ) -> None:  # fmt: skip
        self.collection, self.options, self.place, self.say = collection, options, place, say
        self.again = again  # why: said when some text was read, and no option turned out wrong
        self.borders = has_borders(collection, options)  # whether documents have
        self.tally = Tally()
        self.distinct = Distinct(place.folder, active=options.distinct)
        self.size = sum(entry.bytes for entry in collection.inputs)
        unknown = any(i.kind == "hub" and not i.bytes for i in collection.inputs)
        quick = options.tokenizer in ("char", "byte")
        worth = workers.default_count(self.size + unknown * (1 << 40), quick)
        self.workers = options.workers or worth

    def run(self, noted: dict[str, Any]) -> tuple[dict[str, Any], tokenizers.Tokenizer]:
        """Survey, tokenize, and return the manifest and the tokenizer."""
        spec, encoder, seen = self.surveyed(noted)
        with manifest.Sources(self.collection) as sources:
            splits = self.write(spec, encoder, seen, noted, sources)
            pairs = {"preferences": True} if self.options.reading.preferences else {}
            return {**self.describe(encoder, splits, sources), **pairs, **seen.template()}, encoder

    def surveyed(self, noted: dict[str, Any]) -> tuple[EncodeSpec, tokenizers.Tokenizer, Survey]:
        """What is to be done with every unit, the tokenizer, and what both are made of."""
        options = self.options
        spec = EncodeSpec(
            reading=options.reading, by=options.split, val_fraction=options.val_fraction,
            separate=self.borders, skip=options.skip_unreadable,
            distinct=options.distinct, splits=tuple(self.splits),
        )  # fmt: skip
        seen, encoder = self.survey(spec, noted)
        for line in slow(encoder, self.size // options.part[1]):
            self.say(line)
        if self.collection.single and seen.characters == 1:
            raise DataError(
                f"{self.collection.name} has 1 character, too few to split",
                "Give more text",
            )
        spec = dataclasses.replace(
            spec, tokenizer=encoder.to_json(), end_of_text=encoder.end_of_text, **seen.template()
        )
        if self.workers <= 1:
            spec.use(encoder)
        return spec, encoder, seen

    def survey(
        self, spec: EncodeSpec, noted: dict[str, Any]
    ) -> tuple[Survey, tokenizers.Tokenizer]:
        """What is known of the corpus, and the tokenizer: found out, or noted before."""
        folder = self.place.folder
        if "survey" in noted:
            seen = Survey(**noted["survey"])
            self.say(f"going on with {self.place.out} after {noted['units']:,} units")
            return seen, self.opened(folder, seen)
        seen = Survey()
        encoder = survey(
            self.collection, spec, self.options, self.units, self.say, self.workers, seen
        )
        write_text(folder / "tokenizer.json", encoder.to_json())
        return seen, encoder

    def opened(self, folder: Path, seen: Survey) -> tokenizers.Tokenizer:
        """The tokenizer that lies in `folder`."""
        encoder = tokenizers.load(folder / "tokenizer.json")
        return tokenizers.with_end_of_text(encoder, seen.end_of_text)

    def units(self, sources: manifest.Sources | None = None) -> Iterator[Unit]:
        """The units of this part."""
        i, n = self.options.part
        every_unit = units(
            self.collection.inputs, self.options.reading, self.options.val_fraction
        )  # fmt: skip
        hubs = {entry.name for entry in self.collection.inputs if entry.kind == "hub"}
        for unit in every_unit:
            if sources and unit.source in hubs:
                for piece in unit.parts:
                    assert isinstance(piece, Piece)
                    sources.saw(unit.source, piece.prompt + piece.text)
            if unit.index % n == i - 1:
                yield unit

    def write(
        self, spec: EncodeSpec, encoder: tokenizers.Tokenizer, seen: Survey,
        noted: dict[str, Any], sources: manifest.Sources | None,
    ) -> dict[str, Any]:  # fmt: skip
        """Tokenize all units that are not done, into shards; return the splits' entries."""
        done = noted.get("units", 0)
        width = 2 if encoder.vocab_size <= 1 << 16 else 4
        self.restore(noted)
        states = noted.get("splits", {})
        writers = {s: self.writer(s, spec, width, states.get(s)) for s in self.splits}
        with_points = (seen.with_split_points(unit) for unit in self.units(sources))
        waiting = (unit for number, unit in enumerate(with_points) if number >= done)
        try:
            with bar("tokenizing", self.size) as advance:
                for unit, result in workers.ordered_map(
                    encoding.encode, waiting, spec, self.workers
                ):
                    if self.again:
                        self.say(self.again)
                        self.again = ""
                    self.take(result, writers)
                    done += 1
                    advance(unit.bytes)
                    if self.place.due():
                        self.note(done, seen, writers)
            self.check(writers)
            return {split: writer.finish() for split, writer in writers.items()}
        finally:
            for writer in writers.values():
                writer.abandon()

    def writer(
        self, split: str, spec: EncodeSpec, width: int, state: dict[str, Any] | None
    ) -> SplitWriter:
        """What writes a split, from `state` on; `width` is the bytes of an id."""
        return SplitWriter(
            self.place.folder, split, width, self.options.shard_tokens,
            docs=spec.separate, masked=spec.reading.masked, state=state,
        )  # fmt: skip

    def take(self, result: encoding.Result, writers: dict[str, SplitWriter]) -> None:
        """Write what became of a unit, and count what is to be reported."""
        for split, keep in self.distinct.keep(result).items():
            if split in writers:
                writers[split].add(result.splits[split], keep)
        self.tally.add(result)

    def note(self, done: int, seen: Survey, writers: dict[str, SplitWriter]) -> None:
        """Put on disk how far the work has come."""
        states = {split: writer.state() for split, writer in writers.items()}
        self.distinct.note(done)
        self.place.note({
            "units": done, "splits": states, "survey": seen.noted(),
            "failed": self.tally.failed, "counts": self.tally.counts.to_json(),
        })  # fmt: skip
        self.distinct.forget(done)

    def restore(self, noted: dict[str, Any]) -> None:
        """Take up the counts of who worked here before."""
        self.tally.failed.update(noted.get("failed", {}))
        self.tally.counts.update(Counts(noted.get("counts")).entries)
        self.distinct.restore(noted.get("units", 0))

    def counts(self) -> Counts:
        """What did not reach the dataset, of the sources and of their texts."""
        counts = Counts()
        for part in (self.collection.counts, self.tally.counts):
            counts.update(part.entries)
        return counts

    def check(self, writers: dict[str, SplitWriter]) -> None:
        """Raise DataError where a split has no text."""
        if self.options.part[1] > 1:  # the whole is looked at when the parts are merged
            return
        tokens = {split: writer.sums["tokens"] for split, writer in writers.items()}
        if not any(tokens.values()) and self.tally.failed:
            raise DataError(f"nothing could be read: {next(iter(self.tally.failed.values()))}")
        name = self.collection.inputs[-1].name if self.collection.single else ""
        why = self.counts().report()
        if not any(tokens.values()) and set(self.counts().entries) - {"empty"}:
            raise DataError(
                f"{name or self.collection.name} is empty: {'; '.join(why)}",
                "Give a source with some text in it.",
            )
        manifest.check_tokens(
            tokens, name or self.collection.name, self.options.split,
            masked=self.options.reading.masked,
        )  # fmt: skip

    def describe(
        self, encoder: tokenizers.Tokenizer, splits: dict[str, Any], sources: manifest.Sources
    ) -> dict[str, Any]:
        """The manifest."""
        options = self.options
        rule = {"by": options.split, "val_fraction": options.val_fraction}
        kind = options.tokenizer if options.tokenizer in factory.OURS else encoder.kind
        notes = list(self.collection.notes) + self.tally.report()
        if options.part[1] == 1:
            notes += uneven(splits, rule, masked=options.reading.masked)
        notes += unended(encoder, options.end_of_text, separate=self.borders)
        for note in notes[len(self.collection.notes) :]:
            self.say(note)
        return manifest.describe(
            self.collection.name, encoder, splits,
            tokenizer=kind, split=rule,
            end_of_text=encoder.end_of_text if self.borders else None,
            masked=options.reading.masked, options=options.noted(),
            sources=sources.entries(), counts=self.counts().to_json(), notes=notes,
        )  # fmt: skip

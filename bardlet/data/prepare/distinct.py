"""Which documents of a corpus are there already: a set of digests, kept for who goes on."""

from __future__ import annotations

from pathlib import Path

from bardlet.data.prepare.encoding import Result
from bardlet.io.atomic import flush

SIZE = 16  # bytes of a digest


class Distinct:
    """The digests of the documents so far; `active` says whether duplicates are dropped."""

    def __init__(self, folder: Path, *, active: bool) -> None:
        self.folder, self.active = folder, active
        self.seen: set[bytes] = set()

    def keep(self, result: Result) -> dict[str, list[bool]]:
        """For each split of a unit, which of its entries are not of a duplicate; these are counted.

        Split by position, a document has an entry in both splits, and is one all the same.
        """
        twice: list[bool] = []
        for digest in result.digests:
            twice.append(bool(digest) and digest in self.seen)
            if digest:
                self.seen.add(digest)
        keep: dict[str, list[bool]] = {}
        size = 0
        for split, encoded in result.splits.items():
            keep[split] = [not twice[document] for document in encoded.documents]
            kept = zip(encoded.bytes, keep[split], strict=True)
            size += sum(bytes for bytes, stays in kept if not stays)
        result.counts.add("duplicates", sum(twice), size)
        return keep

    def note(self, done: int) -> None:
        """Put the digests on disk beside the journal's entry of `done` units."""
        if self.active:
            # of its own name: a kill before the journal's next line must leave the one before
            path = self.folder / f"seen-{done}.bin"
            path.write_bytes(b"".join(sorted(self.seen)))
            flush(path)

    def forget(self, done: int) -> None:
        """Remove the digests of earlier entries, when the journal has that of `done` units."""
        for path in self.folder.glob("seen-*.bin"):
            if path.name != f"seen-{done}.bin":
                path.unlink()

    def restore(self, done: int) -> None:
        """Take up the digests of who worked here before, for `done` units."""
        if self.active and done:
            raw = (self.folder / f"seen-{done}.bin").read_bytes()
            self.seen = {raw[i : i + SIZE] for i in range(0, len(raw), SIZE)}

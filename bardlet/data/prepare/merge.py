"""Parts of a dataset that were prepared on several machines, made one."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

from bardlet.data.dataset.folder import SPLITS, Dataset
from bardlet.data.prepare import manifest
from bardlet.data.prepare.checksum import checksum
from bardlet.data.prepare.journal import Replacing, StagingFolder, replaced_freely
from bardlet.data.prepare.options import check_folder
from bardlet.data.prepare.remarks import uneven
from bardlet.data.prepare.shards import SUMS, entry_of
from bardlet.data.text.counts import Counts
from bardlet.errors import DataError
from bardlet.io.atomic import write_text
from bardlet.io.schema import check

MAX_PARTS = 1_000_000
SIZES = dict.fromkeys(SUMS, int)
MERGEABLE = {
    "split": {"by": str, "val_fraction": float}, "masked": bool, "tokenizer": str,
    "end_of_text": (int, None), "options": {...: object}, "splits": {...: SIZES},
}  # fmt: skip
OPTIONAL = ("chat_template", "preferences")  # of what only some datasets have
KINDS = ("", "docs", "mask")  # a shard, and what may stand beside it


def merge(parts: list[Path], out: Path, replacing: Replacing = replaced_freely) -> Dataset:
    """Make one dataset of all `parts` of one, in the order of their numbers, and return it opened.

    Files are linked where the disk can do that, and copied elsewhere; every byte is read once, for
    the checksums. DataError where a part is missing, damaged or of something else. `replacing` is
    asked as `prepare` does.
    """
    check_folder(out)
    datasets = ordered([Dataset(part) for part in parts])
    place = StagingFolder(out, "", replacing)
    place.recover()
    with place.held():
        stopped = Event()
        with ThreadPoolExecutor(len(SPLITS)) as threads:
            try:
                joined = threads.map(lambda s: join(datasets, s, place.folder, stopped), SPLITS)
                splits: dict[str, Any] = dict(zip(SPLITS, joined, strict=True))
            finally:
                stopped.set()
        write_text(place.folder / "tokenizer.json", datasets[0].tokenizer.to_json())
        first = datasets[0].manifest
        tokens = {split: entry["tokens"] for split, entry in splits.items()}
        manifest.check_tokens(tokens, first["name"], first["split"]["by"], parts=True)
        keep = ("tokenizer", "split", "end_of_text", "masked", "sources")
        keep += tuple(key for key in OPTIONAL if key in first)
        described = manifest.describe(
            first["name"], datasets[0].tokenizer, splits, **{key: first[key] for key in keep},
            options={**first["options"], "part": "1/1"}, counts=counts(datasets),
            notes=notes(datasets)
            + uneven(splits, first["split"], masked=first["masked"], parts=True)
            + undropped(first["options"]),
        )  # fmt: skip
        place.publish(described)
    return Dataset(out)


def counts(parts: list[Dataset]) -> dict[str, Any]:
    """What was left out of all parts together."""
    total = Counts()
    for part in parts:
        total.update(part.about.counts if part.about else {})
    return total.to_json()


def undropped(options: Mapping[str, Any]) -> list[str]:
    """A remark where --distinct could not compare the documents of one part with another's."""
    within = "--distinct has dropped duplicates within each part, not between parts"
    return [within] * bool(options.get("distinct"))


def notes(parts: list[Dataset]) -> list[str]:
    """The remarks of all parts, with the part where there are several."""
    return [
        f"part {part.manifest['options']['part']}: {note}"
        for part in parts
        for note in part.manifest["notes"]
    ]


def ordered(parts: list[Dataset]) -> list[Dataset]:
    """The parts by their numbers; DataError where they are not all parts of one dataset."""
    by_number: dict[str, Dataset] = {}
    for part in parts:
        check_part(part)
    first = parts[0].manifest
    for part in parts:
        number = part.manifest["options"]["part"]
        if number in by_number:
            raise DataError(
                f"{part.folder} and {by_number[number].folder} are both part {number}",
                "Give each part once",
            )
        by_number[number] = part
        for key in ("tokenizer_hash", "end_of_text", "split", "sources", "masked", *OPTIONAL):
            if part.manifest.get(key) != first.get(key):
                raise DataError(
                    f"{part.folder} is of another {key.replace('_', ' ')} than {parts[0].folder}",
                    "Prepare all parts with the same command but for --part",
                )
    total = next(iter(by_number)).partition("/")[2]
    names = [f"{i}/{total}" for i in range(1, int(total) + 1)]
    if missing := [name for name in names if name not in by_number]:
        raise DataError(f"part {missing[0]} is missing", "Give all parts")
    return [by_number[name] for name in names]


def check_part(part: Dataset) -> None:
    """Raise DataError where the manifest of a part lacks what merging needs."""
    if not part.about:
        raise DataError(
            f"{part.folder} was written by nanoGPT, and has no parts to merge",
            f"Train on several datasets with --dataset {part.folder}:0.5,OTHER:0.5",
        )
    try:
        check(part.manifest, MERGEABLE)
        number = part.manifest["options"].get("part")
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", str(number))
        if not match or not 1 <= int(match[1]) <= int(match[2]) <= MAX_PARTS:
            raise ValueError(f"its part {number!r} is not i/N")
    except ValueError as error:
        raise DataError(
            f"{part.folder} cannot be merged: {error}", "Prepare it again with --part"
        ) from None


def join(parts: list[Dataset], split: str, folder: Path, stopped: Event) -> dict[str, Any]:
    """The entry of a split in the manifest, its shards brought to `folder` under new numbers."""
    whole = hashlib.sha256()
    sums: dict[str, Any] = dict.fromkeys(SUMS, 0)
    shards: list[dict[str, Any]] = []
    for part in parts:
        entry = part.manifest["splits"][split]
        files = part.about.splits[split].shards if part.about else ()
        sums = {key: sums[key] + entry[key] for key in SUMS}
        for shard, named_files in zip(entry["shards"], files, strict=True):
            if not shard["tokens"]:
                continue
            named: dict[str, Any] = {"tokens": shard["tokens"]}
            for kind in KINDS:
                about: Any = shard.get(kind) if kind else shard
                if about is None:
                    continue
                path = part.path(getattr(named_files, kind) if kind else named_files)
                name = f"{split}-{len(shards):05d}{'.' * bool(kind)}{kind}.bin"
                if checksum(path, stopped, whole if not kind else None) != about["sha256"]:
                    raise DataError(f"{path} is damaged: its sha256 is not the one in the manifest")
                bring(path, folder / name)
                if kind:
                    named[kind] = dict(about, file=name)
                else:
                    named = {"file": name, "tokens": shard["tokens"], "sha256": shard["sha256"]}
            shards.append(named)
    return entry_of(folder, sums, whole.hexdigest(), shards)


def bring(path: Path, name: Path) -> None:
    """Link a file, or copy it to another disk."""
    with contextlib.suppress(OSError):
        os.link(path, name)
        return
    shutil.copyfile(path, name)

"""`bardlet count`: how often a text stands in a dataset, where, and what follows it."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bardlet.commands.dependents import dataset_of
from bardlet.commands.parser import Parser, parse
from bardlet.errors import BardletError, DataError, UsageError

if TYPE_CHECKING:
    from bardlet.data.dataset.folder import Dataset

FOLLOWING = 10  # characters that follow, shown
PLACES = 5
MAX_LENGTH = 10_000  # characters of a text that is counted


def run(parser: Parser, args: list[str]) -> int:
    parser.add_argument("dataset", help="a dataset, or a run: what it was trained on")
    parser.add_argument("text", help="what is counted: its characters, case as written")
    parser.add_argument("--split", default="all", help="train, val or all (default)")
    parser.add_argument("--places", type=int, default=PLACES, help="places shown, of each split")
    parser.add_argument("--json", action="store_true", default=False, help="machine-readable")
    parsed = parse(parser, args)
    if parsed.split not in ("train", "val", "all"):
        raise UsageError(f"split={parsed.split} must be train, val or all")
    if not 0 <= parsed.places <= 1000:
        raise UsageError(f"places={parsed.places} must be from 0 to 1000")
    if not 0 < len(parsed.text) <= MAX_LENGTH:
        raise UsageError(f"a text of {len(parsed.text):,} characters must have 1 to {MAX_LENGTH:,}")
    from bardlet.analysis import counts

    dataset = opened(parsed.dataset)
    splits = ("train", "val") if parsed.split == "all" else (parsed.split,)
    result = {"dataset": str(dataset.folder),
              **counts.count(dataset, parsed.text, splits, parsed.places)}  # fmt: skip
    print(json.dumps(result) if parsed.json else describe(result))
    return 0


def opened(name: str) -> Dataset:
    """The dataset of a name or path, or that of a run, where it lies as it was."""
    from bardlet.data.dataset import folder, mixture

    if "," not in name and not folder.is_dataset(folder.find(name)):
        for ref in dataset_of(Path(name)):
            with contextlib.suppress(BardletError):
                dataset = mixture.opened(ref.name)
                if dataset.hash == ref.hash:
                    return dataset
            raise DataError(
                f"the dataset of {name}, {ref.name}, is not there as it was trained on",
                "Name the folder of a dataset",
            )
    return mixture.opened(name)


def describe(result: dict[str, Any]) -> str:
    """The counts for people."""
    lines = [f"{quoted(result['text'])} in {result['dataset']}: {times(result)}"]
    if len(result["splits"]) > 1:
        lines += [f"  {name}: {times(split)}" for name, split in result["splits"].items()]
    follows = result["follows"]
    if follows:
        lines.append("what follows:")
    for each in follows[:FOLLOWING]:
        name = quoted(each["character"]) if each["character"] else "the end"
        lines.append(f"  {name:<8} {each['count']:>9,}  {each['share']:>6.1%}")
    if len(follows) > FOLLOWING:
        rest = sum(each["count"] for each in follows[FOLLOWING:])
        kinds = f"{len(follows) - FOLLOWING} others"
        lines.append(f"  {kinds:<8} {rest:>9,}  {rest / result['characters']:>6.1%}")
    if result["places"]:
        lines.append("where, for example:")
    for place in result["places"]:
        text = "".join(place[part] for part in ("before", "match", "after"))
        lines.append(f"  {place['split']} byte {place['place']:,}: {quoted(text)}")
    return "\n".join(lines)


def times(count: dict[str, Any]) -> str:
    """A count in words."""
    text = f"{count['characters']:,} times"
    words = count["whole_word"]
    return text if words is None else f"{text}, {words:,} of them as a whole word"


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)

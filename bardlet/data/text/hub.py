"""Documents that are the rows of a data set on Hugging Face's hub."""

from __future__ import annotations

from collections.abc import Iterator

from bardlet.data.text.inputs import Input
from bardlet.data.text.records import Piece, Reading, piece_of
from bardlet.errors import DataError
from bardlet.system.optional_deps import need


def of_hub(entry: Input, reading: Reading) -> Iterator[Piece]:
    """Yields the rows of a data set on the hub while they arrive."""
    datasets = need("datasets", "hub", entry.name, DataError)
    name, _, rest = entry.path.removeprefix("hf://").partition(":")
    config, _, split = rest.partition(":")
    done = 0
    try:
        rows = datasets.load_dataset(name, config or None, split=split or "train", streaming=True)
        for record in rows:
            piece = piece_of(record, entry.name, reading)
            yield piece
            done += len(piece.prompt.encode()) + len(piece.text.encode())
            if 0 < entry.sample <= done:
                return
    except DataError:
        raise
    except Exception as error:  # of the network, of the hub, of a format: there is no end to them
        first = (str(error).splitlines() or [""])[0]
        raise DataError(
            f"cannot read {entry.name}: {type(error).__name__}: {first}",
            "Check the name and the network, or download it and give the folder",
        ) from None

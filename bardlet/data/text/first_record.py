"""Whether sources hold conversations: by the first record of the first file of records."""

from __future__ import annotations

import contextlib
import csv
import json
from pathlib import Path
from typing import IO, Any

from bardlet.data.text import compression, conversations, decoding
from bardlet.data.text.archives import DAMAGE
from bardlet.data.text.inputs import Collection, Input
from bardlet.data.text.json_stream import values
from bardlet.errors import DataError
from bardlet.system.optional_deps import need

KINDS = ("jsonl", "json", "csv", "parquet")
LONGEST = 1 << 24  # bytes of a first record that is looked at


def messages_key(collection: Collection, encoding: str) -> str:
    """The key of conversations in these sources; empty where they have none, or begin with texts.

    Archives and data sets on the hub are not looked into. What cannot be read is left to its
    reader, which says so.
    """
    entry = next((entry for entry in collection.inputs if entry.kind in KINDS), None)
    if entry is None:
        return ""
    with contextlib.suppress(DataError, ValueError, RecursionError, *DAMAGE):
        return conversations.key_of(first_record(entry, encoding))
    return ""


def first_record(entry: Input, encoding: str) -> Any:
    """The first value of a file of records, None where it has none."""
    with Path(entry.path).open("rb") as file:
        whole: IO[bytes] = file
        if entry.compression:
            limit = compression.limit(entry.bytes)
            whole = compression.decompressed(file, entry.compression, limit, entry.shown)
        if entry.kind == "parquet":
            parquet = need("pyarrow.parquet", "data", entry.name, DataError)
            batch = next(parquet.ParquetFile(whole).iter_batches(batch_size=1), None)
            return batch.to_pylist()[0] if batch is not None and batch.num_rows else None
        counted = decoding.CountedFile(whole, encoding, "replace")
        blocks = decoding.stream(counted, entry.name, encoding, "replace")
        if entry.kind == "csv":
            header = next(blocks, "").partition("\n")[0]
            return dict.fromkeys(next(csv.reader([header]), []), "")
        if entry.kind == "jsonl":
            read = ""
            for block in blocks:
                read += block
                line, end, _ = read.lstrip().partition("\n")
                if end or len(read) > LONGEST:
                    return json.loads(line)
            return json.loads(read)
        return next(values(blocks, entry.name), None)

"""One side of tokenizer_speed.py, in a process of its own: TASK SIDE TEXT [NUMBER] [FILE].

It prints one line of JSON. Imports, vocabularies and the start of processes are done before the
clock runs, which counts processor time where one thread encodes. NUMBER is of threads or processes,
or of tokens to train; FILE takes what was learnt.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from bardlet.data.prepare import encoding, units
from bardlet.data.prepare.encode_spec import EncodeSpec
from bardlet.data.text import sources
from bardlet.data.text.records import Reading
from bardlet.data.tokenizers import bpe, bpe_encoding, bpe_training, patterns
from bardlet.data.tokenizers.byte_tokens import ALPHABET
from bardlet.data.tokenizers.char import CharTokenizer
from bardlet.data.tokenizers.factory import existing

PLAIN = "without its core"
AT_ONCE = 512  # documents that tiktoken gets in a batch, to bound its lists of Python's integers
PART = 1 << 22  # characters of a text that become ids at a time
TIMES = 5  # that this is done, for the median


class Ids:
    """A hash of ids, whichever type they come in, and their number."""

    def __init__(self) -> None:
        self.hash, self.tokens = hashlib.sha256(), 0

    def add(self, parts: Iterable[Any]) -> None:
        for part in parts:
            self.hash.update(np.asarray(part, dtype="<u4").tobytes())
            self.tokens += len(part)

    def result(self, seconds: float) -> dict[str, Any]:
        return {"seconds": seconds, "tokens": self.tokens, "ids": self.hash.hexdigest()[:16]}


def encode_theirs(path: Path, threads: int) -> dict[str, Any]:
    """GPT-2's ids by tiktoken, of the text in documents that are cut where a word ends."""
    import tiktoken
    from tiktoken_ext.openai_public import r50k_pat_str

    pieces = enumerate(existing("gpt2").tokens()[:-1])
    ranks = {piece: i for i, piece in pieces}
    theirs = tiktoken.Encoding(
        "gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={}
    )
    documents = list(patterns.parts(path.read_text(encoding="utf-8")))
    theirs.encode_ordinary(documents[0])
    ids, seconds = Ids(), 0.0
    clock = time.process_time if threads == 1 else time.perf_counter
    for start in range(0, len(documents), AT_ONCE):
        batch = documents[start : start + AT_ONCE]
        began = clock()
        if threads == 1:
            encoded = [theirs.encode_ordinary(document) for document in batch]
        else:
            encoded = theirs.encode_ordinary_batch(batch, num_threads=threads)
        seconds += clock() - began
        ids.add(encoded)
    return ids.result(seconds)


specs: list[EncodeSpec] = []  # in a process that encodes: its one


def encode_unit(unit: units.Unit) -> encoding.Result:
    return encoding.encode(unit, specs[0])


def begin(spec: EncodeSpec, plain: bool) -> None:
    """Make a process ready to encode."""
    if plain:
        bpe_encoding.core = lambda: None
    specs[:] = [spec]
    encoder = spec.encoder
    assert isinstance(encoder, bpe.BPETokenizer)
    assert plain or encoder.quick is not None, "the core was not compiled"


def encode_ours(path: Path, processes: int, plain: bool) -> dict[str, Any]:
    """GPT-2's ids as `bardlet prepare` makes them of a file, reading and decoding it included."""
    text = existing("gpt2").to_json()
    spec = EncodeSpec(
        reading=Reading(), by="document", val_fraction=0.0, separate=False, tokenizer=text
    )
    collection = sources.find([str(path)], folder=path.parent, say=lambda line: None)
    todo = list(units.units(collection.inputs, spec.reading, 0.0))
    ids = Ids()
    if processes == 1:
        begin(spec, plain)
        began = time.process_time()
        done = [encoding.encode(unit, spec) for unit in todo]
        seconds = time.process_time() - began
    else:
        with ProcessPoolExecutor(
            processes, multiprocessing.get_context("spawn"), begin, (spec, plain)
        ) as pool:
            ready = [pool.submit(time.sleep, 1) for _ in range(processes)]
            for one in ready:
                one.result()
            began = time.perf_counter()
            waiting = [pool.submit(encode_unit, unit) for unit in todo]
            done = [one.result() for one in waiting]
            seconds = time.perf_counter() - began
    for result in done:
        ids.add(result.splits["train"].ids)
    return ids.result(seconds)


def train(side: str, path: Path, vocab_size: int, out: Path) -> dict[str, Any]:
    """A vocabulary trained on the text; its merged tokens in order, in `ALPHABET`, go to `out`."""
    text = path.read_text(encoding="utf-8")
    count = vocab_size - 256
    began = time.perf_counter()
    if side == "rustbpe":
        import rustbpe

        theirs = rustbpe.Tokenizer()
        theirs.train_from_iterator(patterns.parts(text), vocab_size, pattern=patterns.O200K)
        seconds = time.perf_counter() - began
        ranks = sorted((rank, bytes(token)) for token, rank in theirs.get_mergeable_ranks())
        learnt = ["".join(ALPHABET[b] for b in token) for rank, token in ranks if rank >= 256]
    else:
        learn = bpe_training.learn_with_library if side == "tokenizers" else bpe_training.learn
        pairs = learn(text, count)
        seconds = time.perf_counter() - began
        learnt = [left + right for left, right in pairs]
    out.write_text("\n".join(learnt), encoding="utf-8")
    return {"seconds": seconds, "tokens": len(learnt)}


def characters(side: str, path: Path) -> dict[str, Any]:
    """A text's characters as ids, in one thread, as much at a time as `prepare` takes."""
    text = path.read_text(encoding="utf-8")
    ours = CharTokenizer.train(text)
    number = {char: i for i, char in enumerate(ours.chars)}
    encode: Callable[[str], Any] = ours.encode
    if side != "bardlet":
        encode = lambda text: np.array([number[c] for c in text], dtype=np.uint16)  # noqa: E731
    parts = [text[start : start + PART] for start in range(0, len(text), PART)]
    took = []
    for _ in range(TIMES if side == "bardlet" else 1):
        began = time.perf_counter()
        for part in parts:
            encode(part)
        took.append(time.perf_counter() - began)
    ids = Ids()
    ids.add(encode(part) for part in parts)
    return ids.result(statistics.median(took))


if __name__ == "__main__":
    task, side, file, *rest = sys.argv[1:]
    text_file = Path(file)
    if task == "encode" and side == "tiktoken":
        result = encode_theirs(text_file, int(rest[0]))
    elif task == "encode":
        result = encode_ours(text_file, int(rest[0]), PLAIN in side)
    elif task == "train":
        result = train(side, text_file, int(rest[0]), Path(rest[1]))
    else:
        result = characters(side, text_file)
    print(json.dumps(result))

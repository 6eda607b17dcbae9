"""`bardlet prepare`: text in, a dataset folder out."""

from __future__ import annotations

import json
from pathlib import Path

from bardlet.arguments import Parser, parse, say

TOKENIZER = (
    "char (default), byte, gpt2, bpe (trained on the text), a tokenizer.json or a folder with one, "
    "a tiktoken encoding, or OWNER/NAME on the hub"
)
VOCAB_SIZE = (
    "bpe: how many tokens, by default as many as fit the text; char: at most so many, the rarest "
    "share <unk>"
)


def run(parser: Parser, args: list[str]) -> int:
    parser.add_argument("source", help="named corpus (tinyshakespeare), file, folder, or - ")
    parser.add_argument("--out", type=Path, help="dataset folder; default data/<name>")
    parser.add_argument("--file", type=Path, help="take a named corpus from this file")
    parser.add_argument("--tokenizer", default="char", help=TOKENIZER)
    parser.add_argument("--vocab_size", type=int, default=0, help=VOCAB_SIZE)
    parser.add_argument("--val_fraction", type=float, default=0.1, help="part for validation")
    parser.add_argument("--encoding", default="utf-8", help="of the text; default utf-8")
    parser.add_argument("--errors", default="strict", help="replace: go on at bad bytes")
    parser.add_argument("--shard_tokens", type=int, default=10**8, help="tokens in a shard")
    parser.add_argument("--json", action="store_true", default=False, help="print the manifest")
    given = parse(parser, args)
    from bardlet.data import corpus
    from bardlet.data.prepare import prepare
    from bardlet.inspection import describe_dataset

    reading = {"encoding": given.encoding, "errors": given.errors, "say": say}
    text = corpus.load(given.source, file=getattr(given, "file", None), **reading)
    for note in text.notes:
        say(note)
    out = getattr(given, "out", None) or Path("data") / text.name
    dataset = prepare(
        text, out, tokenizer=given.tokenizer, vocab_size=given.vocab_size,
        val_fraction=given.val_fraction, shard_tokens=given.shard_tokens, say=say,
    )  # fmt: skip
    print(json.dumps(dataset.manifest) if given.json else describe_dataset(dataset))
    return 0

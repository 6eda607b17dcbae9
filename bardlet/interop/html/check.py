"""What a browser makes of an exported page, compared with what our model makes of its weights."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bardlet.data.tokenizers.base import Tokenizer
from bardlet.data.tokenizers.bpe import PROBE
from bardlet.data.tokenizers.char import CharTokenizer
from bardlet.errors import CheckpointError
from bardlet.interop.html import chromium
from bardlet.interop.verify import (
    GREEDY_TOKENS,
    Comparison,
    Trained,
    example_ids,
    greedy_equal,
    largest,
)  # fmt: skip
from bardlet.model import GPT

# of logits, in their standard deviations. int8 meets vectors that are rounded to 16 bits; the
# largest measured, in trained and in random models: 3e-6, 3e-6, 4e-4.
TOLERANCE = {"float32": 1e-4, "float16": 1e-4, "int8": 5e-3}
# bound of what rounding to the nearest changes a matrix by, relative to its norm; a row of int8
# with a few weights that are far larger than the rest is rounded the most
ROUNDING = {"float32": 0.0, "float16": 5e-4, "int8": 0.05}
MAX_TOKENS = 50_000  # in the text that both tokenize
# the page's own `generate`, and logits at the places of `ids` and of what it writes
ASK = """(async ({ text, ids, count }) => {
  const engine = await bardlet.engine, written = [];
  const options = { temperature: 0, max_new_tokens: count };
  for await (const { id } of engine.generate(ids, options)) written.push(id);
  const all = [...ids, ...written], rows = [];
  for (let i = 1; i <= all.length; i++) rows.push(await engine.logits(all.slice(0, i)));
  const binary = (row) =>
    Array.from(new Uint8Array(row.buffer), (byte) => String.fromCharCode(byte)).join("");
  const logits = rows.map((row) => btoa(binary(row)));
  const words = (await engine.encode(text)).ids;
  return { written, words, text: await engine.decode(words), logits };
})"""


@torch.no_grad()
def check_rounding(model: GPT, stored: GPT, dtype: str) -> None:
    """CheckpointError where a stored weight differs by more than `dtype` rounds."""
    weights = dict(stored.named_parameters())
    for name, p in model.named_parameters():
        error = float((weights[name] - p).norm() / p.norm().clamp_min(1e-30))
        if not error <= ROUNDING[dtype]:
            raise CheckpointError(
                f"{dtype} changes {name} by {error:.2g} of its size", "Export as float16 or float32"
            )


@torch.no_grad()
def compare(trained: Trained, stored: GPT, dtype: str, page: Path) -> Comparison | str:
    """How the page's logits, and the text that it writes, differ from those of the model `stored`.

    CheckpointError where its tokenizer finds other tokens, or where it does not run.
    """
    path = chromium.program()
    if path is None:
        return (
            "no Chromium is installed that could open the page, so it is not checked (name one in "
            f"{chromium.VARIABLE})"
        )
    idx = example_ids(stored)
    size = stored.config.block_size
    count = min(GREEDY_TOKENS, size - idx.size(1))
    text = sample_text(trained.tokenizer)
    question = json.dumps({"text": text, "ids": idx[0].tolist(), "count": count})
    try:
        with chromium.opened(path, page) as browser:
            program = browser.call("Browser.getVersion")["product"].replace("/", " ")
            answer = browser.evaluate(f"{ASK}({question})")
    except chromium.ChromiumError as error:
        raise CheckpointError(f"the page does not run in {path}: {error}") from None
    check_words(trained.tokenizer, text, answer["words"], answer["text"])
    written = torch.tensor(answer["written"], dtype=torch.int64)  # (N,)
    idx = torch.cat((idx, written[None]), dim=1)  # (1, T + N)
    ours = stored(idx, idx)[0][0]  # (T + N, V)
    theirs = floats(answer["logits"])
    # where all logits are nearly the same, float32 rounds by what they have in common
    spread = max(float(ours.std(correction=0)), float(ours.abs().max()) / 20)
    tolerance = TOLERANCE[dtype] * spread
    begin = idx.size(1) - len(written) - 1
    # the page stops before a token that ends texts
    end = trained.tokenizer.end_of_text
    ended = len(written) < count and end is not None and int(ours[-1].argmax()) == end
    return Comparison(
        program=program, max_difference=largest(ours, theirs), tolerance=tolerance,
        greedy=greedy_equal(ours[begin:-1], written, tolerance),
        greedy_wanted=len(written) if ended else count,
    )  # fmt: skip


def floats(rows: list[str]) -> Tensor:
    """Rows of float32 out of base64."""
    return torch.from_numpy(
        np.stack([np.frombuffer(base64.b64decode(row), dtype="<f4") for row in rows])
    )


def sample_text(tokenizer: Tokenizer) -> str:
    """A text with all characters of an alphabet; else with all tokens, or the first of very many,
    and one that vocabularies split differently.

    It ends in white space where it can, so that nothing is put behind it as behind a prompt.
    """
    if isinstance(tokenizer, CharTokenizer):
        chars = [char for char in tokenizer.chars if not "\ud800" <= char <= "\udfff"]
        return "".join(sorted(chars, key=" \n".__contains__))
    special = {tokenizer.end_of_text, *tokenizer.special().values()}
    ids = [i for i in range(min(MAX_TOKENS, tokenizer.vocab_size)) if i not in special]
    return tokenizer.decode(ids) + PROBE


def check_words(tokenizer: Tokenizer, text: str, words: list[int], decoded: str) -> None:
    """CheckpointError where `words` are not the tokens of a text, perhaps behind others."""
    ids = tokenizer.encode(text).tolist()
    if words[len(words) - len(ids) :] != ids or len(words) > len(ids) + 2:
        raise CheckpointError("the page's tokenizer finds other tokens", "Nothing was written")
    if not decoded.endswith(tokenizer.decode(ids)):
        raise CheckpointError("the page's tokenizer writes another text", "Nothing was written")

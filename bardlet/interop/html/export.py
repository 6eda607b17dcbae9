"""Out to a browser: one HTML file that holds the model and opens anywhere, without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bardlet.data.tokenizers.base import Tokenizer
from bardlet.interop.chat_template import of_pairs
from bardlet.interop.html import check
from bardlet.interop.html import text as training_text
from bardlet.interop.html import tokenizer as html_tokenizer
from bardlet.interop.html.weights import DTYPES, cropped, packed
from bardlet.interop.verify import Comparison, Trained
from bardlet.io.atomic import write_text
from bardlet.web import page

__all__ = ["DTYPES", "SINGLE_FILE", "next_steps", "verify", "write"]
SINGLE_FILE = "model.html"
FORMAT = 1  # of what stands in the page


def write(trained: Trained, folder: Path, dtype: str, *, with_text: bool = False) -> None:
    """Write the page into `folder`, with the text that the model was trained on where asked for.

    UsageError for a tokenizer that it does not know, and for more than a browser opens.
    """
    data, binary = contents(trained, dtype, with_text=with_text)
    html = page.build(
        trained.name, modules=["exported_page.js"], style="style.css", data=data, binary=binary,
        worker=["engine_worker.js"], body='<main id="playground"></main>',
    )  # fmt: skip
    write_text(folder / SINGLE_FILE, html)


def contents(
    trained: Trained, dtype: str, *, with_text: bool = False
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What the engine of the page is made of: JSON values, and bytes by name."""
    tokenizer = trained.tokenizer
    described = html_tokenizer.described(tokenizer)
    texts = training_text.read(trained.state.dataset, tokenizer) if with_text else None
    model = cropped(trained.model, tokenizer.vocab_size)
    table, weights, _ = packed(model, dtype)
    config = model.config
    derived = {name: getattr(config, name) for name in ("head_size", "kv_heads", "mlp_size")}
    data = {
        "format": FORMAT, "config": {**vars(config), **derived}, "tensors": table,
        "tokenizer": described, "info": info(trained, dtype), "prompt": prompt(trained),
        "text": texts and texts.about,
    }  # fmt: skip
    return data, {"weights": weights} | ({"text": texts.tokens} if texts else {})


def info(trained: Trained, dtype: str) -> dict[str, Any]:
    """What the page says of the model, as the server's playground does."""
    config, tokenizer = trained.model.config, trained.tokenizer
    return {
        "name": trained.name, "family": config.family, "n_layer": config.n_layer,
        "n_head": config.n_head, "n_embd": config.n_embd, "context": config.block_size,
        "vocab_size": tokenizer.vocab_size, "tokenizer": tokenizer.kind, "weights": dtype,
        "parameters": trained.model.num_params(), "end_of_text": tokenizer.end_of_text,
        "dataset": trained.state.dataset.name.rpartition("/")[2], "local": True,
    }  # fmt: skip


def prompt(trained: Trained) -> dict[str, Any]:
    """What a prompt is put behind, and how a text without one begins: as `bardlet sample` does."""
    dataset, tokenizer = trained.state.dataset, trained.tokenizer
    end = dataset.end_of_text
    behind = [] if end is None or end >= tokenizer.vocab_size else [end]
    return {
        "behind": behind, "pairs": of_pairs(dataset),
        "beginning": "" if behind else first_text(tokenizer),
    }  # fmt: skip


def first_text(tokenizer: Tokenizer) -> str:
    """A line end where there is one, else the first token."""
    return "\n" if b"\n" in tokenizer.tokens() else tokenizer.decode([0])


def verify(trained: Trained, folder: Path, dtype: str) -> Comparison | str:
    """Open the page in Chromium, and compare it with our model of its weights."""
    model = cropped(trained.model, trained.tokenizer.vocab_size)
    stored = packed(model, dtype)[2]
    check.check_rounding(model, stored, dtype)
    return check.compare(trained, stored, dtype, folder / SINGLE_FILE)


def next_steps(trained: Trained, out: Path, dtype: str) -> list[str]:
    """Nothing but to open it."""
    return [f"open {out} in a browser"]

"""The model card: what the model was trained on, how, and how good it was found to be."""

from __future__ import annotations

import json

import bardlet
from bardlet.data.dataset import mixture
from bardlet.errors import DataError
from bardlet.interop.tensor_names import architecture
from bardlet.interop.verify import Trained
from bardlet.io import schema
from bardlet.run.state import DatasetRef, RunState


def model_card(trained: Trained) -> str:
    """README.md of an exported model, in the format of the hub."""
    model, state = trained.model, trained.state
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        f"tags: [bardlet, {architecture(model.config)}]",
        "---",
        f"# {one_line(trained.name)}",
        "",
        f"A {architecture(model.config)} language model of {model.num_params():,} parameters, "
        f"trained with bardlet {bardlet.__version__}: {model.config.n_layer} layers, "
        f"{model.config.n_head} heads, {model.config.n_embd} wide, a context of "
        f"{model.config.block_size} tokens, a vocabulary of {model.config.vocab_size}.",
        "",
        "```python",
        "from transformers import pipeline",
        "",
        'write = pipeline("text-generation", model=FOLDER_OR_NAME)',
        "```",
        "",
        "## Loss",
        *losses(state),
        "",
        "## Data",
        *sources(state.dataset),
        "",
        "## Recipe",
        *recipe(state),
    ]
    return "\n".join(lines) + "\n"


def losses(state: RunState) -> list[str]:
    """What was measured, as a table."""
    scores = schema.to_json(state.scores) if state.scores else {}
    units = {
        "val_loss": "validation loss, nats per token",
        "bits_per_byte": "validation, bits per byte of text",
        "train_loss": "training loss, nats per token",
    }
    sampled = dict.fromkeys(units, scores.get("val_batches", 0))
    sampled["train_loss"] = state.option("eval_iters", 0)
    units = {k: f"{v}, of {sampled[k]} batches" if sampled[k] else v for k, v in units.items()}
    rows = [f"| {text} | {scores[key]:.4f} |" for key, text in units.items() if key in scores]
    if not rows:
        return ["", "It was not measured."]
    return ["", "| measure | value |", "|---|---|", *rows]


def sources(dataset: DatasetRef) -> list[str]:
    """The manifest of the data that the checkpoint names, where it still lies as it was."""
    if not dataset.name:
        return ["", "Not known: the weights were imported."]
    lines = ["", f"Dataset `{one_line(dataset.name)}`, hash `{dataset.hash}`."]
    try:
        data = mixture.opened(dataset.name)
    except DataError:
        return lines
    if data.hash != dataset.hash:
        return lines
    rows = [
        f"| {one_line(s['name'])} | {s['bytes']:,} | `{s['sha256']}` |"
        for s in getattr(data, "manifest", {}).get("sources", [])
    ]
    splits = [f"{name}: {len(stream):,} tokens" for name, stream in data.splits.items()]
    return [*lines, "; ".join(splits) + ".", "",
            "| source | bytes | sha256 |", "|---|---|---|", *rows]  # fmt: skip


def recipe(state: RunState) -> list[str]:
    """The options of the run."""
    if not state.config:
        return ["", "Not known: the weights were imported."]
    options = [f"{key} = {json.dumps(value)}" for key, value in state.config.items()]
    return ["", f"{state.iter:,} iterations, {state.tokens:,} tokens, with",
            "", "```toml", *options, "```"]  # fmt: skip


def one_line(text: object) -> str:
    """Text that cannot break the table or the heading that it stands in."""
    return " ".join(str(text).split()).replace("|", "/")

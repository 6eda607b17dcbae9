"""`bardlet inspect`: what a dataset, a run or a checkpoint is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bardlet.commands.parser import Parser, parse
from bardlet.errors import DataError, UsageError
from bardlet.io import schema
from bardlet.run.state import Scores

if TYPE_CHECKING:
    from bardlet.data.dataset.folder import Dataset

SHOWN = 10  # sources that are named
CONTEXTS = (64, 256, 1024)  # sizes of windows, of which it is said how many count in the loss


def run(parser: Parser, args: list[str]) -> int:
    parser.add_argument("path", type=Path, help="folder of a dataset, a run or a checkpoint")
    parser.add_argument("--json", action="store_true", default=False, help="machine-readable")
    parser.add_argument(
        "--vocab", action="store_true", default=False,
        help="of a dataset: each token with how often it is there, the most frequent first",
    )  # fmt: skip
    parser.add_argument(
        "--params", action="store_true", default=False,
        help="of a run or checkpoint: every weight, its shape and share, and memory in training",
    )  # fmt: skip
    parsed = parse(parser, args)
    if parsed.params:
        show_parameters(parsed.path, as_json=parsed.json)
        return 0
    if parsed.vocab:
        show_vocabulary(parsed.path, as_json=parsed.json)
        return 0
    info = facts(parsed.path)
    print(json.dumps(info) if parsed.json else describe(info))
    return 0


def show_vocabulary(path: Path, *, as_json: bool) -> None:
    """Print the tokens of a dataset with their counts and shares, the most frequent first."""
    from bardlet.data.dataset import samples
    from bardlet.data.dataset.folder import Dataset, is_dataset

    if not is_dataset(path):
        raise UsageError(f"{path} is not a dataset, whose tokens --vocab counts")
    dataset = Dataset(path)
    counts, tokens = samples.token_counts(dataset), dataset.tokenizer.tokens()
    total = max(int(counts.sum()), 1)
    rows = [
        {"id": i, "token": tokens[i].decode("utf-8", "backslashreplace"), "count": int(counts[i]),
         "share": counts[i] / total}
        for i in sorted(range(len(counts)), key=lambda i: (-counts[i], i))
    ]  # fmt: skip
    if as_json:
        print(json.dumps({"path": str(path), "tokens": total, "vocab": rows}))
        return
    print(f"{'id':>7}  {'count':>13}  {'share':>7}  token")
    for row in rows:
        token = json.dumps(row["token"], ensure_ascii=False)
        print(f"{row['id']:>7}  {row['count']:>13,}  {row['share']:>7.2%}  {token}")


def show_parameters(path: Path, *, as_json: bool) -> None:
    """Print where the parameters of a run's best checkpoint, or of any other model, are."""
    from bardlet.analysis import parameters
    from bardlet.interop.load import load_model

    trained = load_model(str(path))
    optimizer = str(trained.state.config.get("optimizer", "adamw"))
    info = parameters.table(trained.model, optimizer)
    source = {"path": trained.source}
    print(json.dumps(source | info) if as_json else parameters.describe(info))


def facts(path: Path) -> dict[str, Any]:
    """What there is to say of a dataset's, run's or checkpoint's folder, as JSON values."""
    from bardlet.data.dataset.folder import Dataset, is_dataset
    from bardlet.run import run_folder

    # before the dataset, since it has a manifest too
    if (path / "model.safetensors").is_file() and not run_folder.is_run(path):
        return {"kind": "checkpoint", **checkpoint_facts(path)}
    if is_dataset(path):
        return {"kind": "dataset", "path": str(path), **dataset_facts(Dataset(path))}
    if (path / "checkpoints").is_dir():
        named = {name: run_folder.read_pointer(path, name) for name in ("best", "last")}
        info = {n: checkpoint_facts(folder) for n, folder in named.items() if folder}
        return {"kind": "run", "path": str(path), **info}
    raise DataError(
        f"{path} is not a dataset, run or checkpoint",
        "Give the folder that prepare or train wrote, such as data/tinyshakespeare or out/demo",
    )


def dataset_facts(dataset: Dataset) -> dict[str, Any]:
    """A dataset's manifest, some of its documents, and how many tokens count in the loss."""
    from bardlet.data.dataset import samples, streamed

    counted = {name: samples.counted(stream) for name, stream in dataset.splits.items()}
    stream = {}
    if dataset.stream:  # whose text is not all here
        counted["train"] = dataset.manifest["splits"]["train"]["tokens"]
        stream = {"stream": dataset.manifest["stream"] | streamed.state_of(dataset.folder)}
    return {
        **dataset.manifest,
        **stream,
        "counted": counted,
        **counted_facts(dataset),
        "samples": {name: samples.samples(dataset, name) for name in dataset.splits},
    }


def counted_facts(dataset: Dataset) -> dict[str, Any]:
    """Where prompts are masked, the share of windows of several sizes in which something counts."""
    masked = {name: stream for name, stream in dataset.splits.items() if stream.masked}
    shares = {
        name: {str(size): stream.counted_windows(size) for size in CONTEXTS}
        for name, stream in masked.items()
    }
    return {"counted_windows": shares} if shares else {}


def checkpoint_facts(folder: Path) -> dict[str, Any]:
    """What a checkpoint is: its model, how far it was trained, and how good it is."""
    from bardlet.run import checkpoint
    from bardlet.run.state import read_json

    model, tokenizer, saved = checkpoint.load(folder)
    state = schema.to_json(saved)
    options = state.pop("config")
    if saved.scores is not None:
        state["eval"] = schema.to_json(saved.scores)
    return {
        "path": str(folder),
        "parameters": model.num_params(),
        "vocab_size": tokenizer.vocab_size,
        "model": read_json(folder / "config.json"),
        "bytes": sum(file.stat().st_size for file in folder.iterdir()),
        **state,
        "options": options,
    }


def describe(info: dict[str, Any]) -> str:
    """What `facts` returns, for people."""
    if info["kind"] == "dataset":
        from bardlet.data.dataset.folder import Dataset

        return describe_dataset(Dataset(Path(info["path"])), info)
    if info["kind"] == "run":
        parts = [f"run {info['path']}"]
        parts += [f"{n}: {describe_checkpoint(info[n])}" for n in ("best", "last") if n in info]
        return "\n".join(parts if len(parts) > 1 else [*parts, "no checkpoint yet"])
    return describe_checkpoint(info)


def describe_checkpoint(info: dict[str, Any]) -> str:
    model = info["model"]
    lines = [
        f"checkpoint {info['path']}, {info['bytes'] / 1e6:.1f} MB",
        f"  {model['family']} model of {info['parameters']:,} parameters: "
        f"{model['n_layer']} layers, {model['n_head']} heads, {model['n_embd']} wide, "
        f"context {model['block_size']}, vocabulary {info['vocab_size']}",
        f"  imported from {info['imported']['source']}" if "imported" in info else
        f"  after {info['iter']:,} iterations, {info['tokens']:,} tokens of "
        f"{info['dataset']['name']}",
    ]  # fmt: skip
    if "eval" in info:
        scores = schema.read(Scores, info["eval"])
        lines.append(
            f"  train loss {scores.train_loss:.4f}, val loss {scores.val}, "
            f"{scores.bits_per_byte:.4f} bits per byte"
        )
    return "\n".join(lines)


def describe_dataset(dataset: Dataset, info: dict[str, Any] | None = None) -> str:
    """A dataset's facts for people; `info` where they are known already."""
    from bardlet.data.dataset import streamed
    from bardlet.data.tokenizers.base import CharTokenizer

    manifest = info or dataset_facts(dataset)
    counts = [split.get("characters") for split in manifest["splits"].values()]
    characters = "" if None in counts else f"{sum(counts):,} characters, "
    about = manifest["tokenizer"]
    if isinstance(dataset.tokenizer, CharTokenizer):
        about = json.dumps(dataset.tokenizer.chars[:200], ensure_ascii=False)
        about += "..." * (dataset.vocab_size > 200)
    lines = [
        f"dataset {dataset.folder}: {manifest['name']}",
        f"  {characters}vocabulary {dataset.vocab_size:,}: {about}",
    ]
    for name, split in manifest["splits"].items():
        sizes = ""
        if "bytes" in split:  # of nanoGPT's it is not known where they are large
            per_token = split["bytes"] / max(1, split["tokens"])
            sizes = f"{split['bytes']:,} bytes, {per_token:.2f} bytes per token, "
        if "documents" in split:
            sizes += f"{split['documents']:,} document{'s' * (split['documents'] != 1)}, "
        line = (
            f"{split['tokens']:,} tokens, {sizes}"
            f"{len(split['shards'])} shard{'s' * (len(split['shards']) != 1)}"
        )
        if dataset.stream and name == "train":
            line = streamed.describe(dataset.stream, manifest["stream"])
        lines.append(f"  {name}: {line}")
        counted, tokens = manifest["counted"][name], split["tokens"]
        if counted < tokens:
            lines.append(f"    {counted:,} tokens, {counted / tokens:.1%}, count in the loss")
            shares = manifest["counted_windows"][name].items()
            windows = ", ".join(f"{share:.1%} at block_size={size}" for size, share in shares)
            lines.append(f"    windows in which one does: {windows}")
        shown = manifest["samples"][name]
        for document in shown:
            what = "begins" if len(shown) == 1 else f"document {document['document']:,}:"
            if "answer" in document:
                what = f"pair {(document['document'] + 1) // 2:,}, {document['answer']}:"
            texts = [document[key] for key in ("prompt", "text") if key in document]
            quoted = " -> ".join(json.dumps(text, ensure_ascii=False) for text in texts)
            lines.append(f"    {what} {quoted}")
    rule = manifest.get("split")
    if rule:
        part = f"{rule['val_fraction']:g}"
        of = {
            "position": f"the last {part} of each text", "document": f"{part} of the documents",
            "blocks": f"blocks from everywhere in each text, {part} of it",
            "given": "other sources",
        }.get(rule["by"], part)  # fmt: skip
        lines.append(f"  split by {rule['by']}: {of} for validation")
    end = manifest.get("end_of_text")
    if end is not None:
        token = dataset.tokenizer.decode([end])
        lines.append(f"  documents end with {json.dumps(token, ensure_ascii=False)}, token {end}")
    sources = manifest["sources"]
    if len(sources) > SHOWN:
        lines.append(f"  from {len(sources):,} sources, of them the first {SHOWN}:")
    for source in sources[:SHOWN]:
        lines.append(f"  from {source['name']}, {source['bytes']:,} bytes, {source['sha256'][:12]}")
    return "\n".join(lines + [f"  note: {note}" for note in manifest["notes"]])

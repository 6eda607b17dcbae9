"""`bardlet eval`: a model's loss on a whole split."""

from __future__ import annotations

import json
from typing import Any

from bardlet.commands.parser import Parser, add_run, parse
from bardlet.commands.settings import newest_run
from bardlet.errors import DataError, UsageError
from bardlet.io.terminal import say


def run(parser: Parser, args: list[str]) -> int:
    add_run(parser)
    parser.add_argument("--dataset", help="default: the one it was trained on")
    parser.add_argument("--split", choices=("train", "val"), default="val", help="default val")
    parser.add_argument("--batch_size", type=int, default=16, help="windows at once")
    parsed = parse(parser, args)
    run = str(parsed.run or parsed.out_dir or newest_run(say))
    scores = eval_run(
        run, checkpoint=parsed.checkpoint, dataset=getattr(parsed, "dataset", None),
        split=parsed.split, batch_size=parsed.batch_size, device_name=parsed.device,
        dtype=parsed.dtype,
    )  # fmt: skip
    if parsed.json:
        print(json.dumps(scores))
    else:
        print(
            "{split} loss {loss:.4f} nats per token, perplexity {perplexity:.4f}, "
            "{bits_per_byte:.4f} bits per byte, over {tokens:,} tokens".format(**scores)
        )
    return 0


def eval_run(
    run: str, *, checkpoint: str, dataset: str | None, split: str, batch_size: int,
    device_name: str, dtype: str,
) -> dict[str, Any]:  # fmt: skip
    """The loss of a run's checkpoint, or of any other source, on a whole split, as JSON values."""
    from bardlet.data.dataset import mixture
    from bardlet.data.tokenizers import base as tokenizers
    from bardlet.evaluate import evaluate
    from bardlet.interop import load
    from bardlet.system import device
    from bardlet.system.distributed import Group

    if batch_size < 1:
        raise UsageError(f"batch_size={batch_size} must be at least 1")
    trained = load.load_model(run, checkpoint)
    model, state = trained.model, trained.state
    name = dataset or state.dataset.name
    if not name:
        raise UsageError(f"{run} was not trained here", "Name the data with --dataset")
    data = mixture.opened(name)
    if tokenizers.fingerprint(data.tokenizer) != tokenizers.fingerprint(trained.tokenizer):
        raise DataError(
            f"{data.folder} was prepared with another tokenizer than {trained.source}",
            "A loss compares on the same tokens only",
        )
    device.tune_process()
    machine = device.choose(device_name, dtype)
    model.to(machine.device)
    doc_mask = bool(state.config.get("doc_mask"))
    score = evaluate(
        model, data, split, batch_size=batch_size, machine=machine, group=Group(), doc_mask=doc_mask
    )
    return {
        "checkpoint": trained.source, "dataset": name, "split": split, "loss": score.loss,
        "perplexity": score.perplexity, "bits_per_byte": score.bits_per_byte,
        "tokens": score.tokens, "iter": state.iter, "device": str(machine.device),
        "dtype": str(machine.dtype).removeprefix("torch."),
    }  # fmt: skip

"""What finetuning on conversations teaches a small model: to fill in a form, before and after.

    python bench/chat.py [--pairs 4000] [--epochs 10] [--layers 4] [--size 128] [--lora]

A base model of 0.8M parameters is trained on generated sentences (who from where wants what), then
finetuned with the preset chat-sft and Muon on questions and answers that pick out and order what a
sentence says. Sentences that are in neither text are asked greedily, of the base model and of the
finetuned one; an answer is right to the letter.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import common

import bardlet
from bardlet import cli
from bardlet.errors import UsageError
from bardlet.serve.model import Model

NAMES = ["Ann", "Bob", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hal", "Ida", "Jon", "Kim", "Leo"]
TOWNS = ["Rome", "Oslo", "Bern", "Kiel", "Lima", "Nice", "Graz", "Bonn", "York", "Cork", "Pisa"]
THINGS = ["apples", "boats", "cups", "drums", "eggs", "forks", "gloves", "hats"]
NUMBERS = range(2, 10)
HELD_OUT = 500  # questions
Wish = tuple[str, str, int, str]


def sentence(wish: Wish) -> str:
    name, town, number, thing = wish
    return f"{name} from {town} wants {number} {thing}."


def answer(wish: Wish) -> str:
    """The form, filled in: another order than the sentence's."""
    name, town, number, thing = wish
    return f"{thing}: {number}, to {town} for {name}"


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def write_texts(folder: Path, pairs: int, seed: int) -> list[Wish]:
    """Write base.txt and pairs.jsonl; return the wishes that neither has."""
    draw = random.Random(seed)
    wishes = list(itertools.product(NAMES, TOWNS, NUMBERS, THINGS))
    draw.shuffle(wishes)
    held_out, rest = wishes[:HELD_OUT], wishes[HELD_OUT:]
    (folder / "base.txt").write_text("\n".join(map(sentence, rest)), encoding="utf-8")
    with (folder / "pairs.jsonl").open("w", encoding="utf-8") as file:
        for wish in rest[:pairs]:
            turns = [message("user", sentence(wish)), message("assistant", answer(wish))]
            file.write(json.dumps({"messages": turns}) + "\n")
    return held_out


def right(model: Model, wishes: list[Wish]) -> int:
    """How many of these wishes a model puts into the form; a base model is asked without roles."""
    options: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": 40}
    try:
        talk = model.conversations
        requests = [talk.request([message("user", sentence(w))], **options)[0] for w in wishes]
    except UsageError:
        requests = [model.request(sentence(w) + "\n", **options) for w in wishes]
    completions = model.complete(requests)
    return sum(
        completion.text.strip() == answer(w)
        for w, completion in zip(wishes, completions, strict=True)
    )


def run(args: list[str]) -> None:
    if code := cli.main(args):
        raise SystemExit(code)


def measure(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Train both models with the texts of a seed, and ask them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wishes = write_texts(folder, options.pairs, seed)[: options.held_out]
        base, chat = folder / "base", folder / "chat"
        text = str(options.text or folder / "base.txt")
        run(["prepare", text, "--tokenizer=byte", f"--out={folder / 'text'}"])
        # conversations are cut where a window ends: in longer ones fewer are
        shape = ["--block_size=256", f"--n_layer={options.layers}", f"--n_embd={options.size}"]
        run(["train", "demo", f"--dataset={folder / 'text'}", f"--out_dir={base}", *shape,
             f"--max_iters={options.base_iters}",
             f"--eval_interval={options.base_iters}"])  # fmt: skip
        began = time.perf_counter()
        run(["prepare", str(folder / "pairs.jsonl"), f"--tokenizer={base}",
             f"--out={folder / 'pairs'}"])  # fmt: skip
        run(["train", "chat-lora" if options.lora else "chat-sft", f"--init_from={base}",
             f"--dataset={folder / 'pairs'}", f"--out_dir={chat}", f"--epochs={options.epochs}",
             f"--learning_rate={options.learning_rate}", "--min_lr=0", f"--seed={seed}",
             *["--optimizer=muon"] * (not options.lora)])  # fmt: skip
        took = time.perf_counter() - began
        before, after = (right(bardlet.load(each), wishes) for each in (base, chat))
        parameters = bardlet.load(chat).gpt.num_params()
    return {
        "seed": seed, "parameters": parameters, "pairs": options.pairs, "asked": len(wishes),
        "before": before / len(wishes), "after": after / len(wishes), "finetuning_s": took,
    }  # fmt: skip


def main() -> None:
    parser = common.arguments(__doc__, peer=False, trains=False, repeats=1)
    parser.add_argument("--pairs", type=int, default=4000, help="questions with answers")
    parser.add_argument("--epochs", type=float, default=10)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--size", type=int, default=128, help="width of the model")
    parser.add_argument("--base_iters", type=int, default=300)
    parser.add_argument("--lora", action="store_true", help="the preset chat-lora")
    parser.add_argument("--learning_rate", type=float, default=4e-3)
    parser.add_argument("--held_out", type=int, default=HELD_OUT, help="questions asked")
    options = parser.parse_args()
    rows = [measure(options, common.SEED + number) for number in range(options.repeats)]
    head = ["parameters", "pairs", "asked", "right before", "right after", "finetuning"]
    cells = [
        [f"{row['parameters'] / 1e6:.2f}M", f"{row['pairs']:,}", f"{row['asked']}",
         f"{row['before']:.1%}", f"{row['after']:.1%}", f"{row['finetuning_s']:.0f} s"]
        for row in rows
    ]  # fmt: skip
    common.finish(options, runs=rows, tables=[common.table(head, cells)])


if __name__ == "__main__":
    main()

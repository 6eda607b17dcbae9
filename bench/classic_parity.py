"""Does shakespeare-char-classic-cpu learn as nanoGPT does? Both, side by side, scored alike.

    python bench/classic_parity.py --peer PATH_TO_NANOGPT [--text FILE] [--seeds 3] [--out FILE]

Trains nanoGPT with its documented CPU settings and bardlet with the preset of the same settings,
taking turns, on the same tokens and with different seeds, and scores the final weights of both on
the whole validation split in windows of 64 in float32. Nothing of the peer is changed or kept: it
runs in a temporary folder, its seed shifted from outside.
"""

from __future__ import annotations

import argparse
import json
import pickle
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from bardlet import checkpoint, device
from bardlet.data import corpus
from bardlet.data.dataset import Dataset
from bardlet.data.prepare import prepare
from bardlet.distributed import Group
from bardlet.evaluate import evaluate
from bardlet.model import GPT, GPTConfig

PRESET = "shakespeare-char-classic-cpu"
PEER_OPTIONS = [
    "--device=cpu", "--compile=False", "--eval_iters=20", "--log_interval=100", "--block_size=64",
    "--batch_size=12", "--n_layer=4", "--n_head=4", "--n_embd=128", "--max_iters=2000",
    "--lr_decay_iters=2000", "--dropout=0.0", "--always_save_checkpoint=True",
]  # fmt: skip
# runs the peer's script as it is, but for the seed that it sets
SHIFTED = """
import runpy, sys, torch
peer, shift, seed_with = sys.argv[1], int(sys.argv[2]), torch.manual_seed
torch.manual_seed = lambda seed: seed_with(seed + shift)
sys.path.insert(0, peer)
sys.argv = [peer + "/train.py", peer + "/config/train_shakespeare_char.py", *sys.argv[3:]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", type=Path, required=True, help="a checkout of nanoGPT")
    parser.add_argument("--text", type=Path, help="the canonical tiny Shakespeare file")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--max_iters", type=int, default=2000)
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        text = corpus.load("tinyshakespeare", file=given.text)
        dataset = prepare(text, work / "data" / "tinyshakespeare")
        for_nanogpt(dataset, work, given.peer.resolve())
        rows = []
        for shift in range(given.seeds):
            for name, run in (("nanoGPT", run_peer), ("bardlet", run_ours)):
                began = time.perf_counter()
                model = run(work, given.peer.resolve(), shift, given.max_iters)
                took = time.perf_counter() - began
                loss = score(model, dataset)
                rows.append({"who": name, "seed": 1337 + shift, "val_loss": loss, "seconds": took})
                print(
                    f"{name:<8} seed {1337 + shift}: val loss {loss:.4f}, {took:.1f} s", flush=True
                )
    means = {}
    for name in ("nanoGPT", "bardlet"):
        losses = [row["val_loss"] for row in rows if row["who"] == name]
        means[name] = statistics.mean(losses)
        print(f"{name:<8} mean {means[name]:.4f}, from {min(losses):.4f} to {max(losses):.4f}")
    print(f"difference of the means {means['bardlet'] - means['nanoGPT']:+.4f}")
    if given.out:
        report = {
            "rows": rows, "means": means, "versions": device.versions(),
            "machine": device.choose("cpu").why, "platform": platform.platform(),
        }  # fmt: skip
        given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def for_nanogpt(dataset: Dataset, work: Path, peer: Path) -> None:
    """The dataset's tokens in the files that nanoGPT reads, in `work`."""
    folder = work / "data" / "shakespeare_char"
    folder.mkdir(parents=True)
    for split, stream in dataset.splits.items():
        stream.read(0, len(stream)).astype("<u2").tofile(folder / f"{split}.bin")
    chars = dataset.tokenizer.chars
    meta = {
        "vocab_size": len(chars),
        "itos": dict(enumerate(chars)),
        "stoi": {c: i for i, c in enumerate(chars)},
    }
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))
    (work / "configurator.py").symlink_to(peer / "configurator.py")  # it looks here for it


def run_peer(work: Path, peer: Path, shift: int, max_iters: int) -> GPT:
    """Train nanoGPT with its own script; return its final weights in our model."""
    options = [*PEER_OPTIONS, f"--out_dir={work / 'peer'}"]
    if max_iters != 2000:
        options += [f"--max_iters={max_iters}", f"--lr_decay_iters={max_iters}"]
        options += [f"--eval_interval={max_iters}"]
    command = [sys.executable, "-c", SHIFTED, str(peer), str(shift), *options]
    subprocess.run(command, cwd=work, check=True, stdout=subprocess.DEVNULL)
    saved = torch.load(work / "peer" / "ckpt.pt", map_location="cpu", weights_only=True)
    model = GPT(GPTConfig(family="gpt2", **saved["model_args"]))
    model.load_state_dict({k.removeprefix("_orig_mod."): v for k, v in saved["model"].items()})
    return model


def run_ours(work: Path, peer: Path, shift: int, max_iters: int) -> GPT:
    """Train the preset through the command line; return its final weights."""
    out = work / f"ours-{shift}"
    command = [sys.executable, "-m", "bardlet", "train", PRESET, f"--out_dir={out}"]
    command += [
        f"--seed={1337 + shift}",
        f"--max_iters={max_iters}",
        f"--lr_decay_iters={max_iters}",
    ]
    subprocess.run(command, cwd=work, check=True, stderr=subprocess.DEVNULL)
    return checkpoint.load(checkpoint.find(out, "last"))[0]


def score(model: GPT, dataset: Dataset) -> float:
    """Nats per token over the whole validation split, float32."""
    machine = device.choose("cpu", "float32")
    return evaluate(
        model, dataset, "val", batch_size=64, machine=machine, group=Group()
    ).loss  # fmt: skip


if __name__ == "__main__":
    main()

"""A folder with nanoGPT's files and doors, and little behind them: for benchmarks on tiny cases.

Its train.py prints nanoGPT's lines of as many iterations as it is told and computes nothing; its
checkpoint is an untrained model, in nanoGPT's format.
"""

from __future__ import annotations

from pathlib import Path

FILES = {
    "configurator.py": "",
    "config/train_shakespeare_char.py": "",
    "model.py": '''
import torch
from bardlet.model import GPT as Model, GPTConfig as Config


def GPTConfig(**options):
    return Config(family="gpt2", **options)


class GPT(Model):
    def generate(self, idx, max_new_tokens, temperature=1.0, top_k=None):
        for _ in range(max_new_tokens):
            part = idx[:, -self.config.block_size :]
            logits = self(part, part)[0][:, -1] / temperature
            idx = torch.cat((idx, logits.softmax(-1).multinomial(1)), dim=1)
        return idx
''',
    "train.py": '''
import os, pickle, sys
import numpy as np
import torch
from model import GPT, GPTConfig

told = dict(word[2:].split("=", 1) for word in sys.argv[1:] if word.startswith("--"))
exec(open("configurator.py").read())
data_dir, block_size, batch_size = "data/shakespeare_char", 8, 2


def get_batch(split):
    data = np.memmap(os.path.join(data_dir, f"{split}.bin"), dtype=np.uint16, mode="r")
    part = torch.from_numpy(data[: block_size + 1].astype(np.int64))
    return part[None, :-1].expand(batch_size, -1), part[None, 1:].expand(batch_size, -1)


get_batch("train")
vocab_size = 50304
if os.path.exists(f"{data_dir}/meta.pkl"):
    with open(f"{data_dir}/meta.pkl", "rb") as file:
        vocab_size = pickle.load(file)["vocab_size"]
args = dict(n_layer=1, n_head=2, n_embd=8, block_size=64, vocab_size=vocab_size, bias=False)
saved = {"model": GPT(GPTConfig(**args)).state_dict(), "model_args": args}


def save(it):
    state = {**saved, "iter_num": it, "best_val_loss": torch.tensor(4.3)}
    torch.save(state, os.path.join(told["out_dir"], "ckpt.pt"))


every = int(told.get("eval_interval", 250))
for it in range(int(told.get("max_iters", 5000)) + 1):
    if it % every == 0:
        print(f"step {it}: train loss 4.2000, val loss 4.3000")
        if it and told.get("always_save_checkpoint") == "True":
            save(it)
    print(f"iter {it}: loss 4.2000, time 1.50ms, mfu -100.00%")
save(it)
''',
    "data/shakespeare_char/prepare.py": '''
import os
import numpy as np

folder = os.path.dirname(__file__)
with open(os.path.join(folder, "input.txt")) as file:
    text = file.read()
numbers = {char: i for i, char in enumerate(sorted(set(text)))}
ids = np.array([numbers[char] for char in text], dtype=np.uint16)
border = int(len(ids) * 0.9)
ids[:border].tofile(os.path.join(folder, "train.bin"))
ids[border:].tofile(os.path.join(folder, "val.bin"))
''',
}  # fmt: skip


def make(folder: Path) -> Path:
    """Write the files into `folder`, and return it."""
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.lstrip(), encoding="utf-8")
    return folder

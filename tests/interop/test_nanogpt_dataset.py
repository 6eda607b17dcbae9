"""Prepared datasets, written as nanoGPT reads them."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import some_text, tiny_config

from bardlet import cli
from bardlet.data.dataset import nanogpt as data
from bardlet.data.dataset.folder import Dataset
from bardlet.data.tokenizers.base import fingerprint
from bardlet.train import train

PEER = os.environ.get("BARDLET_NANOGPT", "")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def prepared(*args: str, text: str = some_text(4000)) -> Path:
    Path("words.txt").write_text(text, encoding="utf-8")
    assert cli.main(["prepare", "words.txt", "--out=data/words", *args]) == 0
    return Path("data/words")


@pytest.mark.parametrize("source", ["data/words", "words"])
@pytest.mark.parametrize("kind", ["char", "byte", "bpe"])
def test_the_tokens_are_the_same_there(
    kind: str, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    args = [f"--tokenizer={kind}", "--shard_tokens=1000"]
    folder = prepared(*args, *(["--vocab_size=300"] if kind == "bpe" else []), text="é中 " * 1500)
    capsys.readouterr()
    assert cli.main(["export", source, "out", "--format=nanogpt", "--json"]) == 0
    said = capsys.readouterr()
    done = json.loads(said.out)
    ours = Dataset(folder)
    for split, stream in ours.splits.items():
        ids = np.fromfile(f"out/{split}.bin", dtype=np.uint16)
        assert np.array_equal(ids, stream.read(0, len(stream)))
        assert done["tokens"][split] == len(ids)
    meta = pickle.loads(Path("out/meta.pkl").read_bytes())
    assert meta["vocab_size"] == ours.vocab_size == len(meta["itos"])
    assert all(meta["itos"][i] == name for name, i in meta["stoi"].items())
    assert ("character by character" in said.err) == (kind != "char")
    again = Dataset(Path("out"))
    assert fingerprint(again.tokenizer) == fingerprint(ours.tokenizer)
    assert done["next"] == [f"python train.py --dataset={Path('out').resolve()}"]


def test_gpt2s_tokens_need_no_description() -> None:
    prepared("--tokenizer=gpt2")
    assert cli.main(["export", "data/words", "out", "--format=nanogpt"]) == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["train.bin", "val.bin"]
    assert data.tokenizer_of(Path("out")).vocab_size == 50257


def test_documents_and_masks_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [json.dumps({"ask": f"what is {i}", "say": f"it is {i}"}) for i in range(60)]
    Path("pairs.jsonl").write_text("\n".join(rows), encoding="utf-8")
    keys = ["--prompt_key=ask", "--response_key=say"]
    assert cli.main(["prepare", "pairs.jsonl", "--out=data/pairs", *keys]) == 0
    assert cli.main(["export", "pairs", "out", "--format=nanogpt"]) == 0
    assert "prompts count in the loss there" in capsys.readouterr().err
    again = data.tokenizer_of(Path("out"))
    assert again.end_of_text == Dataset(Path("data/pairs")).end_of_text is not None


def test_what_nanogpt_cannot_hold_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    folder = prepared()
    for args, code, words in [
        ([str(folder), "out"], 2, "Only --format=nanogpt writes one"),
        (["words:0.5,words:0.5", "out", "--format=nanogpt"], 2, "is a mixture"),
        ([str(folder), str(folder), "--format=nanogpt"], 2, "already exists"),
        (["nothing", "out", "--format=nanogpt"], 1, "no run at nothing"),
    ]:
        assert cli.main(["export", *args]) == code
        assert words in capsys.readouterr().err
    shard = folder / "val-00000.bin"
    raw = bytearray(shard.read_bytes())
    raw[40] ^= 1
    shard.write_bytes(raw)
    assert cli.main(["export", str(folder), "out", "--format=nanogpt"]) == 1
    assert "is damaged" in capsys.readouterr().err
    assert not Path("out").exists() and not list(Path().glob(".*tmp*"))


def test_what_is_written_trains_here_to_the_same_losses() -> None:
    folder = prepared()
    assert cli.main(["export", str(folder), "out", "--format=nanogpt"]) == 0
    losses = [
        train(tiny_config(place, Path(f"run{i}"), max_iters=3)).val_loss
        for i, place in enumerate((folder, Path("out")))
    ]
    assert losses[0] == losses[1]


@pytest.mark.slow
@pytest.mark.skipif(not PEER, reason="BARDLET_NANOGPT is not a clone of nanoGPT")
def test_nanogpts_own_train_takes_it() -> None:
    prepared("--tokenizer=byte")
    assert cli.main(["export", "data/words", "out", "--format=nanogpt"]) == 0
    Path("configurator.py").write_bytes((Path(PEER) / "configurator.py").read_bytes())
    options = [
        f"--dataset={Path('out').resolve()}", "--out_dir=run", "--device=cpu", "--dtype=float32",
        "--compile=False", "--batch_size=4", "--block_size=16", "--gradient_accumulation_steps=1",
        "--max_iters=2", "--eval_interval=2", "--eval_iters=1", "--n_layer=1", "--n_head=2",
        "--n_embd=16", "--warmup_iters=1",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(Path(PEER) / "train.py"), *options], text=True, check=True,
        capture_output=True, env={**os.environ, "PYTHONPATH": PEER},
    )  # fmt: skip
    assert "found vocab_size = 257" in done.stdout and "step 2: train loss" in done.stdout

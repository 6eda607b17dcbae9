"""Documents kept apart: what attention sees, where windows begin, and that all paths agree."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import tiny_config, tiny_model
from torch.nn import functional as F

from bardlet import cli, native
from bardlet.commands.sample import SEPARATOR
from bardlet.config import TrainConfig
from bardlet.data.dataset.folder import Dataset
from bardlet.data.dataset.loader import StreamBatches, first_seen
from bardlet.data.dataset.mixture import opened
from bardlet.data.prepare.pipeline import prepare
from bardlet.data.text import sources
from bardlet.errors import UsageError
from bardlet.evaluate import evaluate
from bardlet.model import GPT
from bardlet.run import checkpoint, run_folder
from bardlet.sample import generate
from bardlet.sampling.filters import Sampling
from bardlet.system import device
from bardlet.system.distributed import Group
from bardlet.train import train
from bardlet.training.resume import model_config

END = 256  # of a text, in the tokenizer of bytes
CORE = {"n_embd": 64, "n_head": 2, "n_kv_head": 0, "block_size": 64, "mlp_dim": 64}


@pytest.fixture
def documents(tmp_path: Path) -> Dataset:
    """300 documents of 4 to 40 bytes, each over two letters of its own."""
    draw = random.Random(0)
    texts = []
    for _ in range(300):
        letters = draw.sample("abcdefghijklmnopqrstuvwxyz", 2)
        texts.append("".join(draw.choices(letters, k=draw.randint(4, 40))))
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    found = sources.find([str(path)])
    return prepare(found, tmp_path / "texts", tokenizer="byte", say=lambda line: None)


def recorded(config: TrainConfig, kind: str = "iter", name: str = "loss") -> list[float]:
    lines = (Path(config.out_dir) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry[name] for line in lines if (entry := json.loads(line))["type"] == kind]


@given(st.lists(st.lists(st.integers(0, 3), min_size=7, max_size=7), min_size=1, max_size=3))
def test_a_document_begins_with_the_end_of_the_one_before(rows: list[list[int]]) -> None:
    found = first_seen(torch.tensor(rows), 3)
    assert found is not None
    expected = [[max([j for j in range(i + 1) if row[j] == 3], default=0) for i in range(7)]
                for row in rows]  # fmt: skip
    assert found.tolist() == expected
    assert first_seen(torch.tensor(rows), None) is None


def apart(model: GPT, idx: torch.Tensor, borders: list[int]) -> torch.Tensor:
    """Logits of one sequence (T,), each of its documents computed alone, at its own positions."""
    parts = []
    for begin, end in zip([0, *borders], [*borders, len(idx)], strict=True):
        alone = GPT(model.config).eval()
        alone.load_state_dict(model.state_dict())
        if not model.config.llama:  # rotary positions are relative, learned ones are not
            positions = alone.transformer["wpe"].weight
            with torch.no_grad():
                positions.copy_(positions.roll(-begin, dims=0))
        part = idx[None, begin:end]
        parts.append(alone(part, part)[0][0])
    return torch.cat(parts)


@torch.no_grad()
def test_a_document_is_computed_as_if_it_were_alone(family: str) -> None:
    model = tiny_model(family).eval()
    idx = torch.randint(0, 50, (2, 16), generator=torch.Generator().manual_seed(0))
    idx[idx == 7] = 8
    borders = [[3, 4, 11], [9]]
    for row, begins in zip(idx, borders, strict=True):
        row[begins] = 7
    logits, _ = model(idx, idx, first=first_seen(idx, 7))
    expected = torch.stack([apart(model, r, b) for r, b in zip(idx, borders, strict=True)])
    torch.testing.assert_close(logits, expected, rtol=0, atol=2e-5)
    assert (model(idx, idx)[0] - expected).abs().max() > 0.01, "without it they differ"


def test_one_document_is_the_plain_path(family: str) -> None:
    model = tiny_model(family)
    idx = torch.randint(0, 50, (3, 16))
    masked, plain = (model(idx, idx, first=first)[1] for first in (torch.zeros_like(idx), None))
    torch.testing.assert_close(masked, plain, rtol=0, atol=1e-6)


def by_hand(model: GPT, idx: torch.Tensor, targets: torch.Tensor) -> float:
    """The mean loss of a batch, each document of each row computed alone."""
    total = 0.0
    for row, wanted in zip(idx, targets, strict=True):
        borders = [i for i in range(1, len(row)) if row[i] == END]
        total += F.cross_entropy(apart(model, row, borders).double(), wanted).item()
    return total / len(idx)


def test_the_loop_and_validation_score_documents_apart(documents: Dataset, tmp_path: Path) -> None:
    config = tiny_config(
        documents.folder, tmp_path / "run", "gpt2", doc_mask=True, max_iters=1, block_size=24
    )
    train(config)
    torch.manual_seed(config.seed)
    model = GPT(model_config(config, documents.vocab_size)).eval()
    batches = StreamBatches(
        documents.splits["train"], block_size=24, batch_size=4, seed=config.seed
    )
    idx, targets = batches.batch(0)
    with torch.no_grad():
        assert recorded(config)[0] == pytest.approx(by_hand(model, idx, targets), abs=1e-6)
        assert abs(recorded(config)[0] - model(idx, targets)[1].item()) > 1e-5
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
        windows = [torch.from_numpy(window) for window in documents.windows("val", 24)]
        lengths = [window.size(1) for window in windows]
        losses = [by_hand(model, *window.unsqueeze(1)) for window in windows]
        options = {"batch_size": 5, "machine": device.choose("cpu", "float32"), "group": Group()}
        found = evaluate(model, documents, "val", doc_mask=True, **options)
        assert found.loss == pytest.approx(np.average(losses, weights=lengths), abs=1e-5)
        assert abs(evaluate(model, documents, "val", **options).loss - found.loss) > 1e-3


def test_training_with_masks_learns_and_goes_on_exactly(
    documents: Dataset, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**CORE, "doc_mask": True, "max_iters": 12, "eval_interval": 6, "lr_decay_iters": 12}
    whole = tiny_config(documents.folder, tmp_path / "whole", family, **options)
    train(whole)
    parts = tiny_config(documents.folder, tmp_path / "parts", family, **options)
    train(dataclasses.replace(parts, max_iters=6))
    train(dataclasses.replace(parts, init_from="resume"))
    assert recorded(parts) == recorded(whole)
    validation = recorded(whole, "eval", "val_loss")
    assert recorded(parts, "eval", "val_loss") == validation
    assert validation[-1] < validation[0]
    monkeypatch.setattr(native, "library", lambda: None)
    without_core = tiny_config(documents.folder, tmp_path / "torch", family, **options)
    train(without_core)
    assert recorded(without_core) == pytest.approx(recorded(whole), abs=5e-4)


def test_eval_masks_as_training_did(
    documents: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(documents.folder, tmp_path / "run", doc_mask=True, max_iters=20, **CORE)
    result = train(config)
    capsys.readouterr()
    assert cli.main(["eval", str(tmp_path / "run"), "--device=cpu", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["loss"] == pytest.approx(result.val_loss, abs=2e-4)


def test_a_text_without_documents_has_nothing_to_mask(dataset_folder: Path, tmp_path: Path) -> None:
    config = tiny_config(dataset_folder, tmp_path / "run", doc_mask=True)
    with pytest.raises(UsageError, match="no token between documents"):
        train(config)


def test_a_mixture_has_the_documents_of_its_parts(documents: Dataset) -> None:
    assert opened(f"{documents.folder}:1,{documents.folder}:2").end_of_text == END


@pytest.mark.parametrize("given", [None, "ab"])
def test_a_sample_begins_as_a_document_does(
    documents: Dataset, dataset_folder: Path, tmp_path: Path, given: str | None,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """After the end of one; a single text has no such token."""
    for name, folder, prompt in (("many", documents.folder, ""), ("one", dataset_folder, " ")):
        train(tiny_config(folder, tmp_path / name, max_iters=30))
        capsys.readouterr()
        told = ["--device=cpu", "--dtype=float32", "--json", "--num_samples=1"]
        told += ["--max_new_tokens=12", "--temperature=0"] + (
            [f"--start={given}"] if given and not prompt else []
        )
        assert cli.main(["sample", str(tmp_path / name), *told]) == 0
        found = json.loads(capsys.readouterr().out)
        prompt = prompt or given or ""
        assert found["prompt"] == prompt
        model, tokenizer, state = checkpoint.load(run_folder.find(tmp_path / name, "best"))
        assert state.dataset.end_of_text == (END if name == "many" else None)
        start = [END] * (name == "many") + tokenizer.encode(prompt).tolist()
        options = {
            "sampling": Sampling(temperature=0), "max_new_tokens": 12, "use_cache": False,
        }  # fmt: skip
        ids = [int(i) for i in generate(model, torch.tensor(start), **options)]
        ids = ids[: ids.index(END)] if END in ids else ids
        assert found["samples"] == [prompt + tokenizer.decode(ids)]


def test_a_sample_ends_with_its_text(
    documents: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a batch each of its own, streamed too: the first of those that run on past it."""
    train(tiny_config(documents.folder, tmp_path / "run", max_iters=150, eval_interval=150))
    told = ["sample", str(tmp_path / "run"), "--device=cpu", "--dtype=float32"]
    told += ["--max_new_tokens=60", "--top_k=0"]
    capsys.readouterr()
    assert cli.main([*told, "--num_samples=6", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    model, tokenizer, _ = checkpoint.load(run_folder.find(tmp_path / "run", "best"))
    options = {"num_samples": 6, "max_new_tokens": 60, "sampling": Sampling(top_k=0)}
    rows = torch.stack(list(generate(model, torch.tensor([END]), **options)), dim=1).tolist()
    ended = [row[: row.index(END)] if END in row else row for row in rows]
    assert min(map(len, ended)) < 60, "some of them end"
    assert found["samples"] == [tokenizer.decode(row) for row in ended]
    assert found["new_tokens"] == max(map(len, ended))
    assert cli.main([*told, "--num_samples=1"]) == 0
    assert capsys.readouterr().out == f"{found['samples'][0]}\n{SEPARATOR}\n"


def test_bits_per_byte_are_of_text(documents: Dataset) -> None:
    """The end of a text is predicted, but it is no bytes of one."""
    model = tiny_model("llama", vocab_size=documents.vocab_size)
    machine = device.choose("cpu", "float32")
    found = evaluate(model, documents, "val", batch_size=8, machine=machine, group=Group())
    split = documents.manifest["splits"]["val"]
    assert split["tokens"] == found.tokens + 1 == split["bytes"] + split["documents"]
    text = split["bytes"] - 1  # the first byte is predicted by nothing
    assert found.bits_per_byte == pytest.approx(found.loss * found.tokens / np.log(2) / text)


def test_what_is_compiled_is_what_runs(
    documents: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Masks make another graph: compiled for the plain one it would be compiled again, untried."""
    tried: list[bool] = []

    def try_compile(
        model: GPT, idx: torch.Tensor, machine: object, first: object, name: str
    ) -> GPT:  # fmt: skip
        tried.append(first is not None)
        return model

    monkeypatch.setattr(device, "try_compile", try_compile)
    for doc_mask in (False, True):
        out = tmp_path / f"run-{doc_mask}"
        train(tiny_config(documents.folder, out, doc_mask=doc_mask, compile=True, max_iters=1))
    assert tried == [False, True]

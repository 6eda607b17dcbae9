"""Half-done runs of nanoGPT, taken over and handed back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support import a_ckpt, a_data_folder, metrics, some_text, tiny_config, tiny_model

from bardlet import cli
from bardlet.interop import load
from bardlet.model import GPT
from bardlet.run import checkpoint, run_folder
from bardlet.train import train

PEER = os.environ.get("BARDLET_NANOGPT", "")
OPTIONS = {
    "dataset": "shakespeare_char", "batch_size": 4, "gradient_accumulation_steps": 2,
    "learning_rate": 2e-3, "min_lr": 1e-4, "weight_decay": 0.2, "beta2": 0.97, "max_iters": 6,
    "lr_decay_iters": 6, "warmup_iters": 2, "eval_interval": 2, "eval_iters": 1, "device": "cuda:3",
    "dtype": "float16", "backend": "nccl", "out_dir": "elsewhere", "init_from": "scratch",
    "wandb_log": True, "own_option": 3,
}  # fmt: skip


def their_adamw(model: GPT, *, by_name: bool = False) -> torch.optim.AdamW:
    """nanoGPT's optimizer, of today or of its first months, after three steps."""
    named = dict(model.named_parameters())
    named = dict(sorted(named.items())) if by_name else named
    groups = [
        {"params": [p for p in named.values() if p.dim() >= 2], "weight_decay": 0.2},
        {"params": [p for p in named.values() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=2e-3, betas=(0.9, 0.97))
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        for p in named.values():
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()
    return optimizer


def half_done(folder: Path, *, by_name: bool = False) -> tuple[Path, GPT, torch.optim.AdamW]:
    """nanoGPT's folder with a run after three iterations and its data."""
    model = tiny_model("gpt2")
    optimizer = their_adamw(model, by_name=by_name)
    data = a_data_folder(folder / "data" / "shakespeare_char", some_text(3000))
    assert data.is_dir()
    more = {"optimizer": optimizer.state_dict(), "config": OPTIONS}
    return a_ckpt(folder / "out" / "ckpt.pt", model, **more), model, optimizer


@pytest.mark.parametrize("by_name", [False, True])
def test_a_half_done_run_is_imported_and_gone_on_with(
    by_name: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, model, optimizer = half_done(tmp_path / "peer", by_name=by_name)
    run = tmp_path / "run"
    assert cli.main(["import", str(path), str(run)]) == 0
    folder = run_folder.find(run, "last")
    assert folder.name == "iter-00000003"
    saved = load_file(folder / "optimizer.safetensors")
    for name, p in model.named_parameters():
        for what, value in optimizer.state[p].items():
            assert torch.equal(saved[f"{name}/{what}"], value)
    state = run_folder.read_state(folder)
    assert (state.iter, state.sequences, state.tokens) == (3, 24, 24 * 16)
    assert state.best_val_loss == 1.5 and state.dataset.hash
    kept = {k: state.config[k] for k in ("learning_rate", "beta2", "max_iters", "optimizer")}
    assert kept == {"learning_rate": 2e-3, "beta2": 0.97, "max_iters": 6, "optimizer": "adamw"}
    assert not state.config.keys() & {"device", "dtype", "backend", "out_dir", "own_option"}
    assert cli.main(["train", "--resume", f"--out_dir={run}", "--device=cpu"]) == 0
    said = capsys.readouterr()
    assert f"bardlet train --resume --out_dir={run}" in said.err
    assert "at iteration 3" in said.out + said.err
    config = tiny_config(tmp_path / "peer" / "data" / "shakespeare_char", run)
    assert [entry["iter"] for entry in metrics(config)] == [3, 4, 5]
    assert metrics(config)[0]["lr"] < 2e-3  # after the warmup, within the decay
    last = load_file(run_folder.find(run, "last") / "optimizer.safetensors")
    assert float(last["transformer.wte.weight/step"]) == 6


def test_a_shorter_context_is_gone_on_with(tmp_path: Path) -> None:
    path, model, optimizer = half_done(tmp_path / "peer")
    run = tmp_path / "run"
    assert cli.main(["import", str(path), str(run), "--block_size=8"]) == 0
    saved = load_file(run_folder.find(run) / "optimizer.safetensors")
    whole = optimizer.state[model.get_parameter("transformer.wpe.weight")]["exp_avg"]
    assert torch.equal(saved["transformer.wpe.weight/exp_avg"], whole[:8])
    assert cli.main(["train", "--resume", f"--out_dir={run}", "--max_iters=4"]) == 0


def test_what_is_imported_is_exported_bit_for_bit(tmp_path: Path) -> None:
    path, _, optimizer = half_done(tmp_path / "peer")
    theirs = optimizer.state_dict()
    assert cli.main(["import", str(path), str(tmp_path / "run")]) == 0
    for i, source in enumerate((path, tmp_path / "run")):
        out = tmp_path / f"back{i}"
        assert cli.main(["export", str(source), str(out), "--format=nanogpt"]) == 0
        again: dict[str, Any] = torch.load(out / "ckpt.pt", weights_only=True)
        assert (again["iter_num"], again["best_val_loss"]) == (3, 1.5)
        assert again["config"]["learning_rate"] == 2e-3
        assert again["config"]["dataset"] == "shakespeare_char"
        state = again["optimizer"]["state"]
        assert state.keys() == theirs["state"].keys()
        for number, entry in state.items():
            for what, value in theirs["state"][number].items():
                assert torch.equal(entry[what], value)
        their_adamw(tiny_model("gpt2")).load_state_dict(again["optimizer"])
        groups = again["optimizer"]["param_groups"]
        assert [group["params"] for group in groups] == [
            g["params"] for g in theirs["param_groups"]
        ]
        assert [group["weight_decay"] for group in groups] == [0.2, 0.0]


def test_a_run_of_ours_is_handed_over_with_its_optimizer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = a_data_folder(tmp_path / "data" / "chars", some_text(3000))
    for optimizer in ("adamw", "muon"):
        config = tiny_config(data, tmp_path / optimizer, "gpt2", optimizer=optimizer, max_iters=3)
        train(config)
        out = tmp_path / f"{optimizer}-out"
        capsys.readouterr()
        assert cli.main(["export", config.out_dir, str(out), "--format=nanogpt"]) == 0
        state = torch.load(out / "ckpt.pt", weights_only=True)["optimizer"]["state"]
        assert len(state) == (
            len(dict(tiny_model("gpt2").named_parameters())) * (optimizer == "adamw")
        )
        fresh = "it has no state of AdamW" in capsys.readouterr().err
        assert fresh == (optimizer == "muon")
    ours = load_file(run_folder.find(tmp_path / "adamw") / "optimizer.safetensors")
    state = torch.load(tmp_path / "adamw-out" / "ckpt.pt", weights_only=True)["optimizer"]["state"]
    assert torch.equal(state[0]["exp_avg"], ours["transformer.wte.weight/exp_avg"])


@pytest.mark.parametrize("optimizer", [
    None, 7, [], {}, {"state": {}, "param_groups": []}, {"state": {0: {}}, "param_groups": [{}]},
    {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"params": [0]}]},
])  # fmt: skip
def test_an_optimizer_of_another_model_is_left_out_and_said(
    optimizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _, _ = half_done(tmp_path)
    saved = torch.load(path, weights_only=True)
    torch.save({**saved, "optimizer": optimizer, "best_val_loss": "low"}, path)
    assert cli.main(["import", str(path), str(tmp_path / "run")]) == 0
    assert "has no optimizer state that fits" in capsys.readouterr().err
    folder = run_folder.find(tmp_path / "run")
    assert load_file(folder / "optimizer.safetensors") == {}
    assert run_folder.read_state(folder).best_val_loss is None


@pytest.mark.parametrize("it", [-1, "3", True, 1 << 60, None])
def test_an_iteration_that_cannot_be_is_none(it: object, tmp_path: Path) -> None:
    path, _, _ = half_done(tmp_path)
    torch.save({**torch.load(path, weights_only=True), "iter_num": it}, path)
    assert load.load_model(str(path)).state.iter == 0


def test_an_import_is_resumed_on_data_that_lies_elsewhere(
    tmp_path: Path, dataset_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _, _ = half_done(tmp_path / "peer")
    data = tmp_path / "here"
    (tmp_path / "peer" / "data" / "shakespeare_char").rename(data)
    path.with_name("meta.pkl").write_bytes((data / "meta.pkl").read_bytes())
    run = tmp_path / "run"
    assert cli.main(["import", str(path), str(run)]) == 0
    resume = ["train", "--resume", f"--out_dir={run}", "--device=cpu", "--max_iters=4"]
    assert cli.main([*resume, f"--dataset={dataset_folder}"]) == 1
    assert "another tokenizer" in capsys.readouterr().err
    assert cli.main([*resume, f"--dataset={data}"]) == 0
    assert checkpoint.load(run_folder.find(run, "last"))[2].dataset.hash


def test_a_model_without_options_is_not_resumed_but_begun_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = a_ckpt(tmp_path / "ckpt.pt", tiny_model("gpt2"), config={})
    (tmp_path / "meta.pkl").write_bytes((a_data_folder(tmp_path / "d") / "meta.pkl").read_bytes())
    assert cli.main(["import", str(path), str(tmp_path / "run")]) == 0
    capsys.readouterr()
    assert cli.main(["train", "--resume", f"--out_dir={tmp_path / 'run'}"]) == 2
    assert f"bardlet train --init_from={tmp_path / 'run'} --dataset=DATA" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not PEER, reason="BARDLET_NANOGPT is not a clone of nanoGPT")
def test_nanogpts_own_train_goes_on_with_our_run_and_ours_with_its(tmp_path: Path) -> None:
    peer = tmp_path / "peer"
    data = a_data_folder(peer / "data" / "chars", some_text(3000))
    config = tiny_config(data, tmp_path / "run", "gpt2", max_iters=4)
    train(config)
    out = peer / "out"
    assert cli.main(["export", config.out_dir, str(out), "--format=nanogpt"]) == 0
    (peer / "configurator.py").write_bytes((Path(PEER) / "configurator.py").read_bytes())
    options = [
        f"--out_dir={out}", "--dataset=chars", "--init_from=resume", "--device=cpu",
        "--dtype=float32", "--compile=False", "--batch_size=4", "--block_size=16",
        "--gradient_accumulation_steps=1", "--max_iters=8", "--eval_interval=4", "--eval_iters=2",
        "--warmup_iters=2", "--learning_rate=1e-2", "--n_layer=2", "--n_head=4", "--n_embd=32",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(Path(PEER) / "train.py"), *options], cwd=peer, text=True,
        capture_output=True, check=True, env={**os.environ, "PYTHONPATH": PEER},
    )  # fmt: skip
    assert "step 4: train loss" in done.stdout and "step 8: train loss" in done.stdout
    again = tmp_path / "again"
    assert cli.main(["import", str(out / "ckpt.pt"), str(again)]) == 0
    folder = run_folder.find(again)
    assert folder.name == "iter-00000008"
    moments = load_file(folder / "optimizer.safetensors")
    assert float(moments["transformer.wte.weight/step"]) == 8
    resume = ["train", "--resume", f"--out_dir={again}", "--max_iters=12", "--device=cpu"]
    assert cli.main(resume) == 0
    lines = (again / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [e["iter"] for line in lines if (e := json.loads(line))["type"] == "iter"]
    assert steps == [8, 9, 10, 11]

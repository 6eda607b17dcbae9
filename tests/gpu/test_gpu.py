"""What only a GPU does: TF32, pinned batches, torch.compile, its memory running out, NCCL.

`pytest -m gpu` runs these and the precisions of test_precision.py there; a minute in all.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support import assert_same_end, losses, metrics, tensors, tiny_config

from bardlet import cli
from bardlet.config import to_toml
from bardlet.data.dataset import mixture
from bardlet.data.dataset.loader import Prefetcher, batches_of
from bardlet.errors import TrainingError
from bardlet.model import GPT
from bardlet.run import run_folder
from bardlet.serve.snapshots import write_samples
from bardlet.system import device
from bardlet.system.distributed import Group
from bardlet.train import train, train_step
from bardlet.training.log import Log
from bardlet.training.setup import setup

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
ON_GPU: dict[str, Any] = {"device": "cuda", "dtype": "float32"}
has_tf32 = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0),
    reason="the GPU has no TF32",
)


@pytest.fixture(autouse=True)
def left_as_it_was() -> Iterator[None]:
    """Leave no process-wide setting of a run behind."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    torch.use_deterministic_algorithms(False)
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


@has_tf32
@pytest.mark.parametrize(
    ("tf32", "smallest", "largest"), [(False, 0.0, 1e-6), (True, 1e-5, 2e-3), ("auto", 0.0, 1e-6)]
)
def test_float32_is_rounded_to_tf32_only_where_that_is_asked_for(
    tf32: str | bool, smallest: float, largest: float
) -> None:
    """A product's error, relative to its norm: 2^-24 of float32 and 2^-11 of TF32 for an operand,
    times a few."""
    machine = device.choose("cuda", "float32", tf32=tf32)
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(512, 512, generator=generator) for _ in range(2))
    exact = a.double() @ b.double()
    product = (a.to(machine.device) @ b.to(machine.device)).cpu().double()
    error = ((product - exact).norm() / exact.norm()).item()
    assert smallest <= error <= largest


@has_tf32
def test_losses_in_tf32_are_nearly_those_of_the_cpu(
    family: str, dataset_folder: Path, tmp_path: Path
) -> None:
    exact = tiny_config(dataset_folder, tmp_path / "cpu", family)
    rounded = tiny_config(dataset_folder, tmp_path / "tf32", family, **ON_GPU, tf32=True)
    train(exact)
    train(rounded)
    # products are rounded to 11 bits, as in float16 (test_precision.py)
    assert losses(rounded) == pytest.approx(losses(exact), abs=2e-3)
    start = metrics(rounded, "start")[0]
    assert (start["device"], start["dtype"], start["tf32"]) == ("cuda", "float32", True)


def test_batches_are_pinned_and_the_same(dataset_folder: Path) -> None:
    parts = mixture.opened(str(dataset_folder)).parts
    options: dict[str, Any] = {
        "block_size": 16, "batch_size": 4, "seed": 1, "rank": 0, "world_size": 1,
    }  # fmt: skip
    plain = Prefetcher(batches_of(parts, **options))
    pinned = Prefetcher(batches_of(parts, **options), pin=True)
    for it in range(3):
        for ours, theirs in zip(pinned.batch(it), plain.batch(it), strict=True):
            assert ours.is_pinned() and not theirs.is_pinned()
            assert torch.equal(ours, theirs)


@pytest.mark.filterwarnings("default")  # of the compiler itself
def test_a_compiled_run_learns_the_same(dataset_folder: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {**ON_GPU, "n_layer": 1, "max_iters": 4}
    plain = tiny_config(dataset_folder, tmp_path / "plain", **options, compile=False)
    compiled = tiny_config(dataset_folder, tmp_path / "compiled", **options, compile=True)
    train(plain)
    train(compiled)
    assert metrics(compiled, "start")[0]["compiled"] and not metrics(plain, "start")[0]["compiled"]
    # equal but for the order of float32 sums
    assert losses(compiled) == pytest.approx(losses(plain), abs=2e-4)
    assert {*tensors(compiled)} == {*tensors(plain)}, "names without the compiler's prefix"


def test_memory_that_runs_out_halves_what_is_computed_at_once(
    dataset_folder: Path, tmp_path: Path
) -> None:
    """Logits of 256 sequences of 64 tokens take 537 MB, and their gradient as many, of 700 MB."""
    shape: dict[str, Any] = {
        **ON_GPU, "block_size": 64, "vocab_size": 8192, "max_iters": 2, "eval_interval": 100,
        "eval_iters": 1, "eval_full": False,
    }  # fmt: skip
    small = tiny_config(
        dataset_folder, tmp_path / "small", **shape, batch_size=32, gradient_accumulation_steps=8
    )
    train(small)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(700e6 / total)
    large = tiny_config(dataset_folder, tmp_path / "large", **shape, batch_size=256)
    with pytest.warns(UserWarning, match="out of memory: going on with"):
        train(large)
    sizes = [e["batch_size"] for e in metrics(large, "event") if e["event"] == "memory"]
    assert sizes and sizes == [128 >> i for i in range(len(sizes))]
    # equal but for the order of float32 sums
    assert losses(large) == pytest.approx(losses(small), abs=1e-4)


def test_moments_in_main_memory_change_no_bit(
    family: str, dataset_folder: Path, tmp_path: Path
) -> None:
    """And the device has room for them outside of steps, in which it has one part of them."""
    options: dict[str, Any] = {**ON_GPU, "deterministic": True, "n_embd": 256, "n_layer": 4}
    plain = tiny_config(dataset_folder, tmp_path / "plain", family, **options)
    away = tiny_config(dataset_folder, tmp_path / "away", family, **options, offload=True)
    held = []
    for config in (plain, away):
        t = setup(config, Group(), device.choose("cuda", "float32"), None, Log, "", None)
        train_step(t, 0, *t.batches.batch(0))
        held.append(torch.cuda.memory_allocated())
        t.log.close()
        moments = sum(v.nbytes for o in t.optimizers for s in o.state.values()
                      for v in s.values() if v.dim())  # fmt: skip
        pinned = {v.is_pinned() for o in t.optimizers for s in o.state.values()
                  for v in s.values() if v.dim()}  # fmt: skip
        assert pinned == {config.offload}
        del t
        gc.collect()
    assert held[1] < held[0] - 0.9 * moments
    train(dataclasses.replace(plain, fresh=True))
    train(dataclasses.replace(away, fresh=True, max_iters=3))
    train(dataclasses.replace(away, init_from="resume", max_iters=5, offload=False))
    train(dataclasses.replace(away, init_from="resume"))
    assert_same_end(plain, away)


@pytest.mark.parametrize(
    ("compiled", "family"), [(False, "gpt2"), (False, "llama"), (True, "llama")]
)
@pytest.mark.filterwarnings("default")  # of the compiler itself
def test_an_iteration_waits_for_nothing_on_the_device(
    compiled: bool, family: str, dataset_folder: Path, tmp_path: Path
) -> None:
    """CUDA itself raises where the host would wait; what was read late is what is read at once."""
    options: dict[str, Any] = {**ON_GPU, "compile": compiled, "gradient_accumulation_steps": 2}
    config = tiny_config(dataset_folder, tmp_path / "run", family, **options)
    t = setup(config, Group(), device.choose("cuda", "float32"), None, Log, "", None)
    assert t.late
    batches = [t.batches.batch(it) for it in range(6)]
    train_step(t, 0, *batches[0])  # which may wait: kernels are loaded, state is made
    torch.cuda.set_sync_debug_mode("error")
    try:
        steps = [train_step(t, it, *batches[it]) for it in range(1, 6)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    t.log.close()
    plain = tiny_config(dataset_folder, tmp_path / "plain", family, max_iters=6)
    train(dataclasses.replace(plain, gradient_accumulation_steps=2))
    # equal but for the order of float32 sums
    assert [step.loss for step in steps] == pytest.approx(losses(plain)[1:], abs=2e-4)


def test_a_loss_that_is_not_finite_is_never_saved(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(dataset_folder, tmp_path / "run", **ON_GPU, save_interval=1)
    count, forward = -1, GPT.forward

    def spoiled(self: GPT, *args: Any, **more: Any) -> Any:
        nonlocal count
        count += self.training
        logits, loss = forward(self, *args, **more)
        return logits, loss * math.nan if count == 5 and loss is not None else loss

    monkeypatch.setattr(GPT, "forward", spoiled)
    with pytest.raises(TrainingError, match="the loss is nan at iteration 5"):
        train(config)
    assert run_folder.iter_of(run_folder.newest(tmp_path / "run")) == 5
    assert all(p.isfinite().all() for p in tensors(config).values())


ONE_PROCESS = """
import copy, sys, torch
import torch.distributed as dist
from pathlib import Path
from bardlet.system import distributed
from bardlet.system.distributed import Group

# torchrun has started one process; a group that is said to have two does not step aside, and torch
# is told of the one that is there
begin = dist.init_process_group
dist.init_process_group = lambda *args, **how: begin(*args, **{**how, "world_size": 1})
group, device = Group(rank=0, local_rank=0, world_size=2), torch.device(sys.argv[2])
with distributed.joined(group, "auto", device):
    assert dist.get_backend() == {"cuda": "nccl", "cpu": "gloo"}[device.type]
    assert dist.get_world_size() == 1
    assert group.sum([1.5, 2.0**40 + 0.25], device) == [1.5, 2.0**40 + 0.25]
    assert group.agree(7) == 7
    torch.manual_seed(0)
    plain = torch.nn.Linear(8, 3, device=device)
    model = distributed.wrap(copy.deepcopy(plain), group, device)
    x = torch.randn(4, 8, device=device)
    for last in (False, True):
        with distributed.synced(model, last):
            loss = model(x).square().sum()
        loss.backward()
        plain(x).square().sum().backward()
    for (name, ours), theirs in zip(model.module.named_parameters(), plain.parameters()):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)
    group.wait()
Path(sys.argv[1]).write_text("done")
"""


def torchrun(*command: str) -> None:
    """Run a command as the one process of torchrun."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1"]
    done = subprocess.run(
        [*launcher, *command], capture_output=True, text=True, timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_nccl_available(),
    reason="this torch has no NCCL",
)
def test_one_process_of_nccl(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(ONE_PROCESS, encoding="utf-8")
    torchrun(str(tmp_path / "one.py"), str(tmp_path / "done"), "cuda:0")
    assert (tmp_path / "done").read_text(encoding="utf-8") == "done"


def test_torchrun_of_one_process_trains_as_none(dataset_folder: Path, tmp_path: Path) -> None:
    alone = tiny_config(dataset_folder, tmp_path / "alone", **ON_GPU)
    train(alone)
    (tmp_path / "run.toml").write_text(to_toml(alone), encoding="utf-8")
    out = tmp_path / "torchrun"
    torchrun("-m", "bardlet", "train", str(tmp_path / "run.toml"), f"--out_dir={out}")
    launched = tiny_config(dataset_folder, out, **ON_GPU)
    # equal but for the order in which a GPU adds
    assert losses(launched) == pytest.approx(losses(alone), abs=2e-4)


def test_samples_and_exports_of_a_run_are_those_of_the_cpu(
    family: str, dataset_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twenty tokens of the likeliest, whose logits are further apart than roundings of float32."""
    config = tiny_config(dataset_folder, tmp_path / "run", family, **ON_GPU, max_iters=40)
    train(config)
    command = ["sample", config.out_dir, "--json", "--num_samples=2", "--max_new_tokens=20"]
    texts = {}
    for where in ("cpu", "cuda"):
        capsys.readouterr()
        asked = [f"--device={where}", "--dtype=float32", "--temperature=0"]
        assert cli.main([*command, *asked]) == 0
        texts[where] = json.loads(capsys.readouterr().out)["samples"]
    assert texts["cuda"] == texts["cpu"]
    for dtype in ("float16", "bfloat16", "auto"):
        capsys.readouterr()
        assert cli.main([*command, "--device=cuda", f"--dtype={dtype}"]) == 0
        assert [len(text) for text in json.loads(capsys.readouterr().out)["samples"]] == [21, 21]
    # export compares transformers' logits with the model's before it gives the folder its name
    assert cli.main(["export", config.out_dir, str(tmp_path / "exported")]) == 0
    assert (tmp_path / "exported/model.safetensors").is_file()


def test_a_deterministic_run_writes_samples(dataset_folder: Path, tmp_path: Path) -> None:
    config = tiny_config(
        dataset_folder, tmp_path / "run", **ON_GPU, deterministic=True, sample_interval=4
    )
    train(config, write_samples=write_samples)
    lines = (tmp_path / "run" / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["iter"] for line in lines] == [0, 0, 0, 4, 4, 4, 8, 8, 8]

"""Targets that do not count in the loss, against the plain path and against sums by hand."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import tiny_config, tiny_model

from bardlet import cli, native
from bardlet import train as training
from bardlet.analysis import doctor, history
from bardlet.config import TrainConfig
from bardlet.data.dataset.folder import Dataset
from bardlet.data.dataset.loader import StreamBatches, random_batches
from bardlet.data.dataset.mixture import opened
from bardlet.data.dataset.stream import HEADER, TokenStream
from bardlet.data.prepare.pipeline import prepare
from bardlet.data.text import sources
from bardlet.data.text.records import Reading
from bardlet.errors import DataError
from bardlet.evaluate import evaluate
from bardlet.io.atomic import sha256
from bardlet.model import GPT, GPTConfig
from bardlet.native.training import NativeGPT
from bardlet.run import run_folder
from bardlet.system import device
from bardlet.system.distributed import Group
from bardlet.train import train
from bardlet.training import guards
from bardlet.training.resume import model_config

CORE = {"n_embd": 64, "n_head": 2, "n_kv_head": 0, "block_size": 32, "mlp_dim": 64}


@pytest.fixture
def pairs(tmp_path: Path) -> Dataset:
    """Questions, which do not count, and answers, which do, in shards of odd sizes."""
    path = tmp_path / "pairs.jsonl"
    records = [{"ask": f"what is {i * 7} and {i}?", "say": f"It is {i}."} for i in range(200)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return prepare(
        sources.find([str(path)]), tmp_path / "pairs", tokenizer="byte", shard_tokens=1001,
        reading=Reading(prompt_key="ask", response_key="say"), say=lambda line: None,
    )  # fmt: skip


def edited(dataset: Dataset, out: Path, change: Callable[[Path, dict[str, Any]], None]) -> Path:
    """A copy of a dataset, with `change` called for the folder and each shard's entry."""
    shutil.copytree(dataset.folder, out)
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    for split in manifest["splits"].values():
        for shard in split["shards"]:
            change(out, shard)
    (out / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return out


def all_count(folder: Path, shard: dict[str, Any]) -> None:
    path = folder / shard["mask"]["file"]
    raw = path.read_bytes()
    path.write_bytes(raw[: HEADER.size] + b"\xff" * (len(raw) - HEADER.size))
    shard["mask"]["sha256"] = sha256(path)


def no_mask(folder: Path, shard: dict[str, Any]) -> None:
    del shard["mask"]


def losses(config: TrainConfig) -> list[float]:
    lines = (Path(config.out_dir) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry["loss"] for line in lines if (entry := json.loads(line))["type"] == "iter"]


def by_hand(model: GPT, idx: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The mean loss of the targets that count, in float64, by picking out probabilities."""
    rows = model.double()(idx, targets.clamp(min=0))[0].log_softmax(-1)
    picked = rows.gather(2, targets.clamp(min=0).unsqueeze(2)).squeeze(2)
    return -picked[targets >= 0].mean()


@given(
    st.lists(st.lists(st.booleans(), max_size=20), max_size=4), st.integers(0, 40),
    st.integers(0, 40), st.integers(0, 3),
)  # fmt: skip
def test_masks_read_as_one_sequence(
    shards: list[list[bool]], start: int, count: int, unmasked: int
) -> None:
    packed = [np.packbits(np.array(bits, dtype=bool), bitorder="little") for bits in shards]
    masks = [bits if i != unmasked else None for i, bits in enumerate(packed)]
    ids = [np.arange(len(bits), dtype=np.uint16) for bits in shards]
    stream = TokenStream(ids, masks=masks)
    flat = [bit or i == unmasked for i, bits in enumerate(shards) for bit in bits]
    assert stream.counts(start, count).tolist() == flat[start : start + count]


def test_a_target_that_does_not_count_is_minus_one(pairs: Dataset) -> None:
    text, counted = "", ""
    for idx, targets in pairs.windows("train", 100):
        whole = np.append(idx[1:], targets[-1])  # the last may be a target that does not count
        assert np.array_equal(whole[targets >= 0], targets[targets >= 0])
        counted += pairs.tokenizer.decode(targets[(targets >= 0) & (targets < 256)])
        text += pairs.tokenizer.decode(idx[idx < 256])
    assert "what is" in text
    assert set(counted.replace("It is ", "").replace(".", "")) <= set("0123456789")
    assert counted.count("It is") > 150


def test_the_loss_is_the_mean_over_what_counts(pairs: Dataset, family: str, tmp_path: Path) -> None:
    config = tiny_config(
        pairs.folder, tmp_path / "run", family, max_iters=1, batch_size=2,
        gradient_accumulation_steps=3,
    )  # fmt: skip
    train(config)
    torch.manual_seed(config.seed)
    model = GPT(model_config(config, pairs.vocab_size))
    batches = StreamBatches(pairs.splits["train"], block_size=16, batch_size=6, seed=config.seed)
    idx, targets = batches.batch(0)
    counts = (targets >= 0).sum(1)
    assert len(set(counts.tolist())) > 1, "micro-batches of unequal weight"
    with torch.no_grad():
        assert losses(config)[0] == pytest.approx(by_hand(model, idx, targets).item(), abs=1e-6)


def test_micro_batches_weigh_by_what_counts(pairs: Dataset, family: str, tmp_path: Path) -> None:
    large = tiny_config(pairs.folder, tmp_path / "large", family, batch_size=12)
    small = tiny_config(
        pairs.folder, tmp_path / "small", family, batch_size=1, gradient_accumulation_steps=12
    )
    train(large)
    train(small)
    # equal but for the order of float32 sums, over eight steps; weighed by sequences the second
    # loss already differs in the second digit
    assert losses(small) == pytest.approx(losses(large), abs=5e-5)


def test_a_mask_of_ones_changes_nothing(pairs: Dataset, family: str, tmp_path: Path) -> None:
    found = []
    for change in (all_count, no_mask):
        folder = edited(pairs, tmp_path / change.__name__, change)
        found.append(tiny_config(folder, tmp_path / f"run-{change.__name__}", family))
        train(found[-1])
    assert losses(found[0]) == losses(found[1])


@pytest.mark.parametrize("core", [False, True])
def test_validation_is_the_mean_over_what_counts(
    pairs: Dataset, family: str, core: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not core:
        monkeypatch.setattr(native, "library", lambda: None)
    model = tiny_model(family, vocab_size=pairs.vocab_size, **CORE).eval()
    machine = device.choose("cpu", "float32")
    found = evaluate(model, pairs, "val", batch_size=3, machine=machine, group=Group())
    total, count = 0.0, 0
    with torch.no_grad():
        for window in pairs.windows("val", 32):
            idx, targets = (torch.from_numpy(row)[None] for row in window)
            if n := int((targets >= 0).sum()):
                total, count = total + by_hand(model.double(), idx, targets).item() * n, count + n
    assert found.tokens == count == int(sum((t >= 0).sum() for _, t in pairs.windows("val", 32)))
    assert found.loss == pytest.approx(total / count, abs=2e-6)
    assert len(pairs.splits["val"]) - 1 > found.tokens > 0


@pytest.mark.parametrize("core", [False, True])
def test_where_nothing_counts_there_is_no_loss_and_no_gradient(family: str, core: bool) -> None:
    model = tiny_model(family, **CORE)
    forward = NativeGPT(model, torch.float32) if core and native.runs(model) else model
    idx = torch.randint(0, 50, (2, 32))
    _, loss = forward(idx, torch.full_like(idx, -1))
    loss.backward()
    assert loss.item() == 0
    assert all(bool((p.grad == 0).all()) for p in model.parameters())


def test_a_batch_in_which_nothing_counts_is_neither_judged_nor_stepped(
    pairs: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A context shorter than a question: windows without a single target."""
    monkeypatch.setattr(guards, "MIN_HISTORY", 4)
    before: dict[int, list[torch.Tensor]] = {}
    counts: dict[int, bool] = {}
    step = training.train_step

    def noting(t: Any, it: int, idx: torch.Tensor, targets: torch.Tensor, **how: Any) -> Any:
        before[it] = [p.detach().clone() for p in t.model.parameters()]
        counts[it] = bool((targets >= 0).any())
        return step(t, it, idx, targets, **how)

    monkeypatch.setattr(training, "train_step", noting)
    config = tiny_config(
        pairs.folder, tmp_path / "run", batch_size=1, block_size=4, max_iters=40, eval_interval=40,
        skip_spikes=True,
    )  # fmt: skip
    train(config)
    empty = [it for it in counts if not counts[it]]
    assert 3 < len(empty) < 37
    logged = losses(config)
    assert [it for it, loss in enumerate(logged) if loss is None] == empty
    assert all(loss is None or loss > 0.1 for loss in logged)
    for it in sorted(counts)[:-1]:
        same = all(torch.equal(a, b) for a, b in zip(before[it], before[it + 1], strict=True))
        assert same == (not counts[it]), it
    newest = run_folder.newest(tmp_path / "run")
    judged = run_folder.read_state(newest).guards.losses
    assert list(judged) == [loss for loss in logged if loss is not None]
    said = capsys.readouterr().out
    assert "spike" not in said, "a loss of 0 is nothing to compare with"
    assert f"iter {empty[0]}: no token of this batch counts in the loss, no step" in said
    share = re.search(r"([\d.]+)% of the windows of 4 tokens have a token that counts", said)
    assert share and float(share[1]) < 50
    assert run_folder.read_state(newest).iter == 40


def test_how_few_windows_count_is_said(
    pairs: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = pairs.splits["train"]
    for length in (1, 4, 7, 50, 10_000):
        starts = range(0, (len(stream) - 1) // length * length or 1, length)
        by_hand = [(stream.window(start, length)[1] >= 0).any() for start in starts]
        assert stream.counted_windows(length) == pytest.approx(np.mean(by_hand)), length
    assert TokenStream(stream.shards).counted_windows(4) == 1.0
    assert TokenStream([]).counted_windows(4) == 1.0
    assert cli.main(["inspect", str(pairs.folder)]) == 0
    share = stream.counted_windows(64)
    assert f"windows in which one does: {share:.1%} at block_size=64" in capsys.readouterr().out
    assert cli.main(["inspect", str(pairs.folder), "--json"]) == 0
    shares = json.loads(capsys.readouterr().out)["counted_windows"]["train"]
    assert shares["64"] == share and list(shares) == ["64", "256", "1024"]
    source = str(pairs.folder.parent / "pairs.jsonl")
    keys = ["--prompt_key=ask", "--response_key=say", "--tokenizer=byte", "--json"]
    assert cli.main(["prepare", source, f"--out={tmp_path / 'again'}", *keys]) == 0
    assert json.loads(capsys.readouterr().out)["counted_windows"]["train"]["64"] == share
    config = tiny_config(pairs.folder, tmp_path / "run", block_size=4, max_iters=2, batch_size=1)
    train(config)
    found = doctor.diagnose(history.read(tmp_path / "run"))
    assert found[0].illness == "little counts in the loss"
    assert found[0].evidence.startswith(f"{stream.counted_windows(4):.1%} of the windows of 4 tok")
    assert "--block_size" in found[0].suggestion


def damaged(dataset: Dataset) -> Path:
    return dataset.folder / dataset.manifest["splits"]["train"]["shards"][0]["mask"]["file"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.unlink(), "cannot read the shard"),
        (lambda p: p.write_bytes(p.read_bytes()[:-1]), "where its header says 1001 tokens"),
        (lambda p: p.write_bytes(b"BARDLET\0" + p.read_bytes()[8:]), "is not a mask of tokens"),
        (lambda p: p.write_bytes(p.read_bytes()[:16] + bytes(16) + p.read_bytes()[32:]),
         "is the mask of 0 tokens, not 1001"),
    ],
)  # fmt: skip
def test_a_damaged_mask_is_named(pairs: Dataset, damage: Any, message: str) -> None:
    damage(damaged(pairs))
    with pytest.raises(DataError, match=rf"train-00000\.mask\.bin.*{message}|{message}.*mask\.bin"):
        Dataset(pairs.folder)


def test_a_mask_is_verified(pairs: Dataset) -> None:
    pairs.verify()
    path = damaged(pairs)
    raw = bytearray(path.read_bytes())
    raw[40] ^= 1
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"train-00000\.mask\.bin is damaged"):
        pairs.verify()


def test_a_split_in_which_nothing_counts_is_refused(pairs: Dataset) -> None:
    stream = pairs.splits["val"]
    stream.masks = [np.zeros(len(shard), dtype=np.uint8) for shard in stream.shards]
    model = GPT(GPTConfig(vocab_size=257, n_layer=1, n_head=1, n_embd=32, block_size=16))
    machine = device.choose("cpu", "float32")
    with pytest.raises(DataError, match="nothing that was scored of val counts"):
        evaluate(model, pairs, "val", batch_size=3, machine=machine, group=Group())


def test_a_sampled_estimate_finds_what_counts(tmp_path: Path) -> None:
    """Prompts so long that most windows are of nothing else."""
    path = tmp_path / "long.jsonl"
    records = [{"ask": f"{i}" + "a" * 700, "say": "yes"} for i in range(60)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    dataset = prepare(
        sources.find([str(path)]), tmp_path / "long", tokenizer="byte",
        reading=Reading(prompt_key="ask", response_key="say"), say=lambda line: None,
    )  # fmt: skip
    stream = dataset.splits["train"]
    options = {"block_size": 16, "batch_size": 8, "count": 5, "seed": 1}
    found = list(random_batches(stream, **options))
    assert all((targets.max(1).values >= 0).all() for _, targets in found)
    again = list(random_batches(stream, **options))
    assert all(
        torch.equal(a, b)
        for x, y in zip(found, again, strict=True)
        for a, b in zip(x, y, strict=True)
    )
    config = tiny_config(dataset.folder, tmp_path / "run", max_iters=2, eval_iters=1, batch_size=1)
    assert np.isfinite(train(config).val_loss)


def test_a_dataset_in_which_nothing_counts_is_refused(pairs: Dataset, tmp_path: Path) -> None:
    def none_counts(folder: Path, shard: dict[str, Any]) -> None:
        path = folder / shard["mask"]["file"]
        raw = path.read_bytes()
        path.write_bytes(raw[: HEADER.size] + bytes(len(raw) - HEADER.size))
        shard["mask"]["sha256"] = sha256(path)

    folder = edited(pairs, tmp_path / "none", none_counts)
    with pytest.raises(DataError, match=r"no token of the train split .* counts in the loss"):
        train(tiny_config(folder, tmp_path / "run"))


def test_a_mixture_has_the_masks_of_its_parts(pairs: Dataset, tmp_path: Path) -> None:
    whole = edited(pairs, tmp_path / "whole", no_mask)
    mixed = opened(f"{pairs.folder}:1,{whole}:3")
    val, of_part = mixed.splits["val"], pairs.splits["val"]
    counts = of_part.counts(0, len(of_part))
    assert val.counts(0, len(val)).tolist() == counts.tolist() + [True] * len(of_part)
    assert [stream.masked for stream, _ in mixed.parts] == [True, False]
    assert 0 < counts.sum() < len(counts)


def test_the_same_tokens_masked_otherwise_are_another_dataset(tmp_path: Path) -> None:
    """Whatever the shards: what a run compares when it goes on is the hash."""
    hashes = {}
    for name, cut in (("early", 3), ("late", 9)):
        path = tmp_path / f"{name}.jsonl"
        texts = [f"{i:03}\nab{i:03}\ncdefg" for i in range(60)]
        records = [{"ask": text[:cut], "say": text[cut + 1 :]} for text in texts]
        path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
        for size in (10**8, 101):
            dataset = prepare(
                sources.find([str(path)]), tmp_path / f"{name}-{size}", tokenizer="byte",
                reading=Reading(prompt_key="ask", response_key="say"), shard_tokens=size,
                say=lambda line: None,
            )  # fmt: skip
            ids = [stream.read(0, 10**6).tolist() for stream in dataset.splits.values()]
            hashes[name, size] = dataset.hash
            assert hashes.setdefault("tokens", ids) == ids
    assert hashes["early", 101] == hashes["early", 10**8]
    assert hashes["late", 101] == hashes["late", 10**8]
    assert hashes["early", 101] != hashes["late", 101]

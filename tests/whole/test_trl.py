"""trl finetunes alike: of the same conversations its ids, masks and losses, and of the same pairs
its log-probabilities, rewards, gradients and, after some steps, its weights.
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import losses, metrics, tiny_config
from torch import Tensor

from bardlet import cli
from bardlet.data.dataset.folder import Dataset
from bardlet.data.dataset.loader import StreamBatches, first_seen
from bardlet.data.dataset.pairs import PairBatches, Pairs
from bardlet.data.dataset.samples import beginnings
from bardlet.data.tokenizers.chat import ChatTemplate
from bardlet.interop import tensor_names
from bardlet.interop.load import load_model
from bardlet.interop.pretrained_init import load_pretrained
from bardlet.model import GPT
from bardlet.system import device
from bardlet.train import train
from bardlet.training.preferences import Preferences, Reference, log_likelihood

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")
transformers = pytest.importorskip("transformers")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of trl and of what it brings
]
WORDS = "Ann Bob Cy Rome Oslo Bern lives in is not where who and 7 12 naïve 詩人 < |> x."
SHAPE = {"block_size": 192, "n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 64}
CPU = device.choose("cpu", "float32")
BETA = 0.3
STEPS = 8
TIGHT = {"rtol": 2e-6, "atol": 2e-6}  # a mean loss in float32: at most 2.7e-7 apart
SUMS = {"rtol": 1e-5, "atol": 5e-5}  # of log-probabilities: 8e-6


def said(draw: random.Random) -> str:
    words = draw.choices(WORDS.split(" "), k=draw.randint(1, 7))
    return draw.choice([" ", "\n", "  "]).join(words) + "."


def turns(draw: random.Random, exchanges: int) -> list[dict[str, str]]:
    """Some exchanges, behind a system message now and then."""
    made = [{"role": "system", "content": said(draw)}] * draw.randint(0, 1)
    for _ in range(exchanges):
        made += [{"role": role, "content": said(draw)} for role in ("user", "assistant")]
    return made


@pytest.fixture(scope="module", params=["chatml", "llama3"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Conversations and pairs by a template, with a model that has been trained on the first."""
    path = tmp_path_factory.mktemp(request.param)
    draw = random.Random(4)
    chats = [{"messages": turns(draw, draw.randint(1, 3))} for _ in range(80)]
    pairs = []
    for _ in range(60):
        prompt = turns(draw, draw.randint(1, 2))[:-1]
        answers = [[{"role": "assistant", "content": said(draw)}] for _ in range(2)]
        pairs.append({"prompt": prompt, "chosen": answers[0], "rejected": answers[1]})
    pairs = [record for record in pairs if record["chosen"] != record["rejected"]]
    for name, records in (("chats", chats), ("pairs", pairs)):
        text = "\n".join(json.dumps(record) for record in records)
        (path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    prepare = ["prepare", str(path / "chats.jsonl"), f"--out={path / 'chats'}", "--tokenizer=bpe",
               "--vocab_size=300", f"--chat_template={request.param}"]  # fmt: skip
    assert cli.main(prepare) == 0
    train(tiny_config(path / "chats", path / "run", max_iters=30, eval_interval=30, **SHAPE))
    paired = ["prepare", str(path / "pairs.jsonl"), f"--out={path / 'pairs'}"]
    assert cli.main([*paired, f"--tokenizer={path / 'run'}"]) == 0
    assert cli.main(["export", str(path / "run"), str(path / "hf"), "--checkpoint=last"]) == 0
    return path


def records(path: Path, name: str) -> list[dict[str, Any]]:
    lines = (path / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def documents(dataset: Dataset, split: str) -> Iterator[tuple[list[int], list[bool]]]:
    """The ids of each document, and which of them count."""
    stream, (starts,) = dataset.splits[split], beginnings(dataset, split)
    for start, end in zip(starts, [*starts[1:], len(stream)], strict=True):
        count = int(end) - int(start)
        yield stream.read(int(start), count).tolist(), stream.counts(int(start), count).tolist()


def model_of(path: Path, *, moved: bool = False) -> Any:
    """The exported model; `moved` by the same noise in every call."""
    model = transformers.AutoModelForCausalLM.from_pretrained(path / "hf", dtype=torch.float32)
    model.model.embed_tokens.padding_idx = None  # or the row of the end of text learns nothing
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, p in sorted(model.named_parameters()):
            p.add_(0.05 * moved * torch.randn(p.shape, generator=generator))
    return model


def ours(path: Path, theirs: Any) -> GPT:
    """Their model's weights in bardlet's."""
    theirs.save_pretrained(path / "moved")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (path / "moved" / name).write_bytes((path / "hf" / name).read_bytes())
    return load_model(str(path / "moved")).model


def trainer(kind: str, path: Path, model: Any, rows: list[Any], **more: Any) -> Any:
    """trl's trainer of rows in their order, on the CPU in float32."""
    options = {
        "output_dir": str(path / "trl"), "use_cpu": True, "bf16": False, "report_to": "none",
        "save_strategy": "no", "disable_tqdm": True, "gradient_checkpointing": False,
        "train_sampling_strategy": "sequential", "per_device_train_batch_size": 4,
        "max_steps": STEPS, "learning_rate": 1e-3, "lr_scheduler_type": "constant",
        "weight_decay": 0.1, "adam_beta1": 0.9, "adam_beta2": 0.95, "max_grad_norm": 1.0,
        "optim": "adamw_torch", "logging_steps": 1, "max_length": 192, "seed": 1,
    }  # fmt: skip
    own = {"ref_model": model_of(path)} if kind == "DPO" else {}
    args = getattr(trl, f"{kind}Config")(**{**options, **more})
    tokenizer = transformers.AutoTokenizer.from_pretrained(path / "hf")
    return getattr(trl, f"{kind}Trainer")(
        model=model, args=args, train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer, **own,
    )  # fmt: skip


def batch(trained: Any, numbers: list[int]) -> dict[str, Tensor]:
    return trained.data_collator([trained.train_dataset[number] for number in numbers])


def assert_same_gradients(model: GPT, theirs: Any) -> None:
    """Within a hundred-thousandth of each gradient's own norm: measured 1.3e-6."""
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    named = tensor_names.split(model.config, grads, "hf")
    for name, p in theirs.named_parameters():
        difference = (named[name] - p.grad).norm() / p.grad.norm()
        assert difference < 1e-5, name


def assert_same_weights(path: Path, run: Path, theirs: Any) -> None:
    """Within a thousandth of how far each has moved (8.5e-5): AdamW divides by what rounding moves
    where a gradient is small.
    """
    model = load_model(str(run), "last").model
    named = tensor_names.split(model.config, dict(model.named_parameters()), "hf")
    before = dict(model_of(path).named_parameters())
    for name, p in theirs.named_parameters():
        moved = (p - before[name]).norm()
        assert (named[name] - p).norm() < 1e-3 * moved, name


def labelled(path: Path) -> Any:
    """trl's trainer on all conversations."""
    return trainer("SFT", path, model_of(path), records(path, "chats"), assistant_only_loss=True)


class TestConversations:
    def test_have_the_same_ids_and_mask(self, folder: Path) -> None:
        dataset = Dataset(folder / "chats")
        made = [*documents(dataset, "train"), *documents(dataset, "val")]
        theirs = [
            (row["input_ids"], [label != -100 for label in row["labels"]])
            for row in labelled(folder).train_dataset
        ]
        assert sorted(made) == sorted(theirs)
        assert any(any(counts) for _, counts in made)

    def test_have_the_same_loss_in_windows_of_many(self, folder: Path) -> None:
        """bardlet packs them, none sees another; trl has each in a row of its own."""
        trained = labelled(folder)
        rows = {tuple(row["input_ids"]): number for number, row in enumerate(trained.train_dataset)}
        dataset, model = Dataset(folder / "chats"), load_model(str(folder / "run"), "last").model
        begins = [int(start) for start in beginnings(dataset, "train")[0]]
        stream = dataset.splits["train"]
        compared = 0
        for first in range(0, len(begins) - 8, 3):
            window = stream.window(begins[first], 192)  # (2, T)
            idx, targets = (torch.from_numpy(x)[None] for x in window)
            ends = [n for n in range(first, len(begins)) if begins[n] - begins[first] <= 192]
            size = begins[ends[-1]] - begins[first] - 1  # of the whole ones, but for a last target
            idx, targets = idx[:, :size], targets[:, :size]
            with torch.no_grad():
                _, loss = model(idx, targets, first=first_seen(idx, dataset.end_of_text))
            numbers = []
            for n in ends[:-1]:
                ids = stream.read(begins[n], begins[n + 1] - begins[n])
                numbers.append(rows[tuple(ids.tolist())])
            with torch.no_grad():
                wanted = trained.compute_loss(trained.model, batch(trained, numbers))
            torch.testing.assert_close(loss, wanted, **TIGHT)
            compared += len(numbers)
        assert compared > 30

    def test_train_to_the_same_weights(self, folder: Path) -> None:
        """On windows as bardlet cuts them."""
        dataset = Dataset(folder / "chats")
        config = tiny_config(
            folder / "chats", folder / "sft", init_from=str(folder / "run"), optimizer="adamw",
            max_iters=STEPS, eval_interval=STEPS, learning_rate=1e-3, decay_lr=False,
            weight_decay=0.1, beta1=0.9, beta2=0.95, **SHAPE,
        )  # fmt: skip
        train(config, load_pretrained)
        stream = dataset.splits["train"]
        batches = StreamBatches(
            stream, block_size=192, batch_size=4, seed=config.seed, rank=0, world_size=1, start=0,
            consumed=0, micro=4,
        )  # fmt: skip
        rows = []
        for it in range(STEPS):
            for place in batches.places(it):
                _, start = batches.find(place)
                ids, counts = stream.read(start, 193), stream.counts(start, 193)
                labels = np.where(counts, ids, -100)
                labels[0] = -100  # nothing predicts it
                rows.append({"input_ids": ids.tolist(), "labels": labels.tolist()})
        trained = trainer("SFT", folder, model_of(folder), rows, max_length=None)
        trained.train()
        seen = [entry["loss"] for entry in trained.state.log_history if "loss" in entry]
        assert seen == pytest.approx(losses(config), abs=1e-5)
        assert_same_weights(folder, folder / "sft", trained.model)


class TestPairs:
    def in_order(self, path: Path) -> tuple[PairBatches, list[dict[str, Any]]]:
        """Batches of a run's pairs, and the records that these are of."""
        pairs = Pairs(Dataset(path / "pairs"), "train", 192)
        batches = PairBatches(
            pairs, batch_size=4, seed=1337, rank=0, world_size=1, start=0, consumed=0, micro=4
        )
        dataset = Dataset(path / "pairs")
        template = ChatTemplate(dataset.chat_template, dataset.tokenizer)
        by_ids = {}
        for record in records(path, "pairs"):
            ids, _ = template.encode(record["prompt"] + record["chosen"])
            by_ids[tuple(ids.tolist())] = record
        rows = []
        for it in range(STEPS):
            for place in batches.places(it):
                number = batches.number(place)
                start, size = int(pairs.starts[number, 0]), int(pairs.sizes[number, 0])
                rows.append(by_ids[tuple(pairs.stream.read(start, size).tolist())])
        return batches, rows

    def behind(self, path: Path) -> int:
        """How many tokens stand behind the end of a turn, which trl counts and bardlet does not:
        the line end of ChatML.
        """
        return {"chatml": 1, "llama3": 0}[path.name[:-1]]

    def without(self, path: Path, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """trl's batch, of which what stands behind the end of a turn does not count."""
        mask = inputs["completion_mask"].clone()
        for row in mask:
            last = int(row.nonzero()[-1]) + 1
            row[last - self.behind(path) : last] = 0
        return {**inputs, "completion_mask": mask}

    def test_have_the_same_ids_and_mask(self, folder: Path) -> None:
        batches, rows = self.in_order(folder)
        trained = trainer("DPO", folder, model_of(folder), rows, beta=BETA)
        for it in range(STEPS):
            idx, targets = batches.batch(it)
            for place in range(4):
                row = trained.train_dataset[4 * it + place]
                for side, name in enumerate(("chosen_ids", "rejected_ids")):
                    ids = row["prompt_ids"] + row[name]
                    size = len(ids) - 1
                    assert idx[place, side, :size].tolist() == ids[:-1]
                    counted = [-1] * (len(row["prompt_ids"]) - 1) + row[name]
                    counted[size - self.behind(folder) :] = [-1] * self.behind(folder)
                    assert targets[place, side, :size].tolist() == counted
                    assert (targets[place, side, size:] == -1).all()

    def test_have_the_same_rewards_loss_and_gradients(self, folder: Path) -> None:
        batches, rows = self.in_order(folder)
        theirs = model_of(folder, moved=True).train()
        model = ours(folder, theirs)
        trained = trainer("DPO", folder, theirs, rows, beta=BETA)
        config = dataclasses.replace(
            tiny_config(folder / "pairs", folder / "x", init_from="x", objective="dpo"),
            dpo_beta=BETA,
        )
        reference = Reference(model=load_model(str(folder / "run"), "last").model.eval())
        judge = Preferences(model, model, reference, config, CPU)
        for it in range(2):
            idx, targets = batches.batch(it)
            inputs = self.without(folder, batch(trained, list(range(4 * it, 4 * it + 4))))
            theirs.zero_grad()
            model.zero_grad()
            wanted = trained._compute_loss(theirs, inputs, return_outputs=False)
            wanted.backward()
            sums, loss = judge(idx, targets)
            loss.backward()
            torch.testing.assert_close(loss, wanted, **TIGHT)
            assert abs(loss.item() - 0.6931) > 0.01
            assert_same_gradients(model, theirs)
            logp, rewards = judge.rewards(idx, targets)
            frozen = torch.stack(trained.compute_ref_log_probs(trained.ref_model, inputs), 1)
            assert reference.model is not None
            before = log_likelihood(reference.model, idx.flatten(0, 1), targets.flatten(0, 1))
            torch.testing.assert_close(before.view(4, 2), frozen, **SUMS)
            theirs_logp = torch.stack(trained.compute_ref_log_probs(theirs, inputs), 1)
            torch.testing.assert_close(logp.detach(), theirs_logp, **SUMS)
            seen = trained._metrics["train"]
            means = [seen[f"rewards/{name}"][-1] for name in ("chosen", "rejected")]
            torch.testing.assert_close(rewards.detach().mean(0), torch.tensor(means), **SUMS)
            assert seen["rewards/margins"][-1] == pytest.approx(sums[0].item() / 4, abs=5e-5)
            assert seen["rewards/accuracies"][-1] == sums[1].item() / 4

    def test_train_to_the_same_weights(self, folder: Path) -> None:
        _, rows = self.in_order(folder)
        config = tiny_config(
            folder / "pairs", folder / "dpo", init_from=str(folder / "run"), objective="dpo",
            dpo_beta=BETA, optimizer="adamw", max_iters=STEPS, eval_interval=STEPS,
            learning_rate=1e-3, decay_lr=False, weight_decay=0.1, beta1=0.9, beta2=0.95,
            **SHAPE,
        )  # fmt: skip
        train(config, load_pretrained)
        trained = trainer("DPO", folder, model_of(folder), rows, beta=BETA)
        collate = trained.data_collator
        trained.data_collator = lambda examples: self.without(folder, collate(examples))
        trained.train()
        log = [entry for entry in trained.state.log_history if "loss" in entry]
        steps = metrics(config)
        assert [e["loss"] for e in log] == pytest.approx([e["loss"] for e in steps], abs=1e-5)
        margins = [e["reward_margin"] for e in steps]
        assert [e["rewards/margins"] for e in log] == pytest.approx(margins, abs=1e-5)
        assert max(map(abs, margins)) > 0.1
        norms = [e["grad_norm"] for e in steps]
        assert [e["grad_norm"] for e in log] == pytest.approx(norms, rel=1e-5)
        assert_same_weights(folder, folder / "dpo", trained.model)

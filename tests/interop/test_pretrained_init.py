"""Runs that begin from a model: of transformers, of nanoGPT, or one of ours."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch
from support import (
    CHARS,
    a_ckpt,
    a_data_folder,
    a_run,
    last_weights,
    some_text,
    stop_after,
    tiny_config,
    tiny_model,
    trained,
)

from bardlet import cli
from bardlet.commands import settings
from bardlet.data.dataset.folder import Dataset
from bardlet.errors import BardletError, DataError, UsageError
from bardlet.interop.huggingface import export as huggingface
from bardlet.interop.pretrained_init import load_pretrained
from bardlet.report.files import command, read_config
from bardlet.run import checkpoint, run_folder
from bardlet.train import train


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return a_data_folder(tmp_path / "data" / "words", some_text(3000))


@pytest.fixture
def source(tmp_path: Path, family: str) -> Path:
    """A model of transformers that knows the characters of `data`, 32 positions and one more
    layer than the run's options say."""
    folder = tmp_path / "hf"
    folder.mkdir()
    model = tiny_model(family, n_layer=3, block_size=32)
    huggingface.write(trained(model, CHARS), folder, "float32")
    return folder


def options(data: Path, out: Path, source: Path, **changes: object) -> list[str]:
    given = {
        "dataset": data, "out_dir": out, "init_from": source, "device": "cpu", "dtype": "float32",
        "block_size": 16, "batch_size": 4, "gradient_accumulation_steps": 1, "max_iters": 6,
        "eval_interval": 3, "eval_iters": 2, "decay_lr": False, "learning_rate": 1e-3, **changes,
    }  # fmt: skip
    return ["train", "demo", *(f"--{name}={value}" for name, value in given.items())]


def val_losses(text: str) -> list[float]:
    return [float(x) for x in re.findall(r"step \d+: .*val loss ([\d.]+)", text)]


def test_finetuning_shows_losses_and_samples_before_and_after(
    data: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert cli.main(options(data, out, source)) == 0
    said = capsys.readouterr()
    losses = val_losses(said.out)
    assert len(losses) == 3 and losses[0] > losses[-1] > 0
    assert "step 0: " in said.out
    assert said.out.count("---------------") == 2
    assert said.out.index("a sample before") < said.out.index("step 0") < said.out.index("after")
    model, _, state = checkpoint.load(run_folder.find(out, "last"))
    assert (model.config.n_layer, model.config.block_size) == (3, 16)
    assert state.config["n_layer"] == 3 and state.iter == 6
    score = ["eval", str(source), f"--dataset={data}", "--json", "--dtype=float32"]
    assert cli.main(score) == 0  # the loss before, in windows of the source's own length


def test_an_untrained_step_leaves_the_source_as_it_is(
    data: Path, source: Path, tmp_path: Path
) -> None:
    begun = tiny_config(
        data, tmp_path / "out", init_from=str(source), block_size=32, max_iters=0, dropout=0.25
    )
    train(begun, load_pretrained)
    model, _, _ = checkpoint.load(run_folder.find(tmp_path / "out", "last"))
    first = load_pretrained(begun, Dataset(data))
    assert first.config.dropout == 0.25 and model.config == first.config
    assert all(torch.equal(p, q) for p, q in
               zip(model.parameters(), first.parameters(), strict=True))  # fmt: skip


def test_finetuning_is_resumed_exactly(data: Path, source: Path, tmp_path: Path) -> None:
    for out, stops in (("whole", [6]), ("parts", [3, 6])):
        for stop in stops:
            args = options(data, tmp_path / out, source, max_iters=stop)
            assert cli.main([*args, *(["--resume"] if stop != stops[0] else [])]) == 0
    pairs = zip(last_weights(tmp_path / "whole"), last_weights(tmp_path / "parts"), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("more", [["--resume", "--max_iters=4"], []], ids=["resumed", "by folder"])
def test_a_run_that_goes_on_still_says_what_it_began_from(
    more: list[str], data: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        if not more:
            stop_after(2, patched)
        assert cli.main(options(data, out, source, max_iters=3)) in (0, 130)
    assert cli.main(["train", f"--out_dir={out}", *more]) == 0
    assert read_config(out)[0]["init_from"] == str(source)
    assert run_folder.saved_options(out)["init_from"] == str(source)  # pyright: ignore
    assert "init_from" not in command(out, read_config(out)[0], {})


def test_nanogpts_checkpoint_and_a_run_of_ours_are_gone_on_from(data: Path, tmp_path: Path) -> None:
    path = a_ckpt(tmp_path / "theirs" / "ckpt.pt", tiny_model("gpt2"))
    (tmp_path / "theirs" / "meta.pkl").write_bytes((data / "meta.pkl").read_bytes())
    for name, source in (("first", path), ("second", tmp_path / "first")):
        config = tiny_config(data, tmp_path / name, init_from=str(source), max_iters=4)
        assert math.isfinite(train(config, load_pretrained).val_loss)
        assert checkpoint.load(run_folder.find(tmp_path / name))[0].config.family == "gpt2"


def test_tokens_of_another_tokenizer_are_refused(
    dataset_folder: Path, source: Path, tmp_path: Path
) -> None:
    config = tiny_config(dataset_folder, tmp_path / "out", init_from=str(source))
    with pytest.raises(DataError, match="prepared with another tokenizer") as error:
        train(config, load_pretrained)
    command = f"bardlet prepare TEXT --tokenizer {source} --out {dataset_folder}_again"
    assert command in error.value.hint
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_the_command_that_the_refusal_names_works(
    dataset_folder: Path, source: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(some_text(3000), encoding="utf-8")
    again = f"{dataset_folder}_again"
    assert cli.main(["prepare", str(text), "--tokenizer", str(source), "--out", again]) == 0
    config = tiny_config(Path(again), tmp_path / "out", init_from=str(source), max_iters=1)
    assert train(config, load_pretrained).iter == 1


def test_a_context_that_the_model_has_not_is_refused(
    data: Path, source: Path, tmp_path: Path
) -> None:
    config = tiny_config(data, tmp_path / "out", init_from=str(source), block_size=33)
    with pytest.raises(UsageError, match=r"block_size=33 is above the 32 of"):
        train(config, load_pretrained)


def test_a_name_of_nothing_is_refused(data: Path, tmp_path: Path) -> None:
    config = tiny_config(data, tmp_path / "out", init_from="scrach")
    with pytest.raises(BardletError, match="no run at scrach"):
        train(config, load_pretrained)


def test_the_presets_are_nanogpts() -> None:
    for size in ("", "-medium", "-large", "-xl"):
        found = settings.resolve_settings([f"eval-gpt2{size}"], {}, print)
        assert (found.init_from, found.eval_only) == (f"gpt2{size}", True)
        assert (found.batch_size, found.eval_iters) == (8, 500)
    tuned = settings.resolve_settings(["finetune-shakespeare"], {}, print)
    assert tuned.init_from == "gpt2-xl" and tuned.block_size == 1024
    assert tuned.batch_size * tuned.gradient_accumulation_steps * tuned.block_size == 32768
    assert (tuned.learning_rate, tuned.decay_lr, tuned.max_iters) == (3e-5, False, 20)


def test_the_context_is_the_models_where_none_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every kind of source; one that a preset or file gives may be shorter, not longer."""
    monkeypatch.chdir(tmp_path)
    model = tiny_model("gpt2")
    a_ckpt(tmp_path / "peer" / "ckpt.pt", model)
    run = a_run(tmp_path / "run", model, CHARS)
    for form in ("hf", "gguf"):
        assert cli.main(["export", str(run), form, f"--format={form}"]) == 0
    Path("long.toml").write_text("block_size = 64\n", encoding="utf-8")
    Path("short.toml").write_text("block_size = 8\n", encoding="utf-8")
    Path("none.toml").write_text("dataset = 'x'\n", encoding="utf-8")
    for source in ("peer", "peer/ckpt.pt", "hf", str(next(Path("gguf").glob("*.gguf")))):
        found = settings.resolve_settings(["none.toml"], {"init_from": source}, print)
        assert found.block_size == 16
    source, flags = "run", {"init_from": "run"}
    assert settings.resolve_settings(["none.toml"], flags, print).block_size == 16
    said: list[str] = []
    assert settings.resolve_settings(["long.toml"], flags, said.append).block_size == 16
    assert said == [f"block_size=64 is above the 16 of {source}: taking 16"]
    assert settings.resolve_settings(["short.toml"], flags, print).block_size == 8
    asked = settings.resolve_settings(["none.toml"], {**flags, "block_size": "64"}, print)
    assert asked.block_size == 64  # and refused where the model is read
    gone = settings.resolve_settings(["none.toml"], {"init_from": "nothing/here/ckpt.pt"}, print)
    assert gone.block_size == 1024


def test_sample_and_eval_take_nanogpts_options(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    a_run(Path("out"), tiny_model("gpt2"), CHARS)
    a_run(Path("other"), tiny_model("gpt2", seed=1), CHARS)
    sample = ["sample", "--json", "--num_samples=1", "--max_new_tokens=1"]

    def source(*args: str) -> str:
        assert cli.main([*sample, *args]) == 0
        return Path(json.loads(capsys.readouterr().out)["checkpoint"]).parts[0]

    assert source("--init_from=resume", "--out_dir=out", "--compile=False") == "out"
    assert source("--compile", "out") == "out"
    assert cli.main([*sample, "out", "--compile=True"]) == 0
    assert "compile=true has no effect" in capsys.readouterr().err
    assert cli.main([*sample, "--init_from=other", "--out_dir=out"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["checkpoint"].startswith("other")
    assert "out_dir=out has no effect" in said.err
    assert cli.main(["eval", "--init_from=other", f"--dataset={data}", "--json"]) == 0
    for args, words in [
        (["--init_from=scratch"], "not trained"), (["out", "--init_from=other"], "two models"),
        (["--compile=maybe", "out"], "compile=maybe is not true or false"),
    ]:  # fmt: skip
        assert cli.main(["sample", *args]) == 2
        assert words in capsys.readouterr().err


class TestRoles:
    """Tokens that a dataset of conversations has beyond a model's."""

    @pytest.fixture
    def chats(self, tmp_path: Path) -> Path:
        """Conversations with the tokens of the run `base`, and roles."""
        a_run(tmp_path / "base", tiny_model("llama", block_size=32), CHARS)
        talks = [
            [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "c" * i}]
            for i in range(1, 40)
        ]
        lines = [json.dumps({"messages": messages}) for messages in talks]
        (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
        command = ["prepare", str(tmp_path / "a.jsonl"), f"--tokenizer={tmp_path / 'base'}"]
        assert cli.main([*command, f"--out={tmp_path / 'chats'}"]) == 0
        return tmp_path / "chats"

    @pytest.mark.parametrize("rank", [0, 2])
    def test_get_rows_and_the_old_ones_stay(self, rank: int, chats: Path, tmp_path: Path) -> None:
        old = checkpoint.load(run_folder.find(tmp_path / "base", "last"))[0]
        config = tiny_config(
            chats, tmp_path / "run", init_from=str(tmp_path / "base"), block_size=32,
            lora_rank=rank, optimizer="adamw",
        )  # fmt: skip
        model = load_pretrained(config, Dataset(chats))
        for name in ("transformer.wte.weight", "lm_head.weight"):
            before, after = old.get_parameter(name), model.get_parameter(name)
            assert len(after) == len(before) + 3 == model.config.vocab_size
            torch.testing.assert_close(after[:50], before, rtol=0, atol=0)
            mean = before.mean(0).expand(3, -1)
            if rank:  # frozen: they have to differ
                assert (after[50:] - mean).abs().max() < 6 * before.std(0).max()
                assert (after[50] - after[51]).norm() > 0.1 * before.std(0).norm()
            else:
                torch.testing.assert_close(after[50:], mean)
        idx = torch.arange(20)[None]
        model.eval(), old.eval()
        with torch.no_grad():
            torch.testing.assert_close(model(idx, idx)[0][..., :50], old(idx, idx)[0])

    def test_are_no_reason_to_take_another_vocabulary(self, chats: Path, tmp_path: Path) -> None:
        a_run(tmp_path / "other", tiny_model("llama", block_size=32), CHARS[::-1])
        config = tiny_config(chats, tmp_path / "run", init_from=str(tmp_path / "other"))
        with pytest.raises(DataError, match="was prepared with another tokenizer"):
            load_pretrained(config, Dataset(chats))

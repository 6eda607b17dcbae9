"""Exports, read by the programs that they are for."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import ALPHABET, a_run, a_state, silent, some_text, tiny_model, trained

from bardlet import cli
from bardlet.data.tokenizers import factory
from bardlet.data.tokenizers.base import ByteTokenizer, Tokenizer
from bardlet.data.tokenizers.char import CharTokenizer
from bardlet.errors import CheckpointError, UsageError
from bardlet.interop import tensor_names, verify
from bardlet.interop.export import export
from bardlet.interop.huggingface import config as hf_config
from bardlet.interop.huggingface import export as huggingface
from bardlet.run.state import DatasetRef, Scores

transformers = pytest.importorskip("transformers")

SHAPES = [
    ("gpt2", {}),
    ("gpt2", {"bias": False, "n_head": 3, "n_embd": 33}),
    ("gpt2", {"gelu_approximate": "tanh", "mlp_dim": 40}),
    ("llama", {}),
    ("llama", {"qk_norm": False, "n_kv_head": 4, "block_size": 1}),
    ("llama", {"n_kv_head": 1, "head_dim": 6, "rope_theta": 500.0, "mlp_dim": 40}),
    ("llama", {"qk_norm": False, "qkv_bias": True}),
    ("llama", {"n_head": 3, "n_kv_head": 3, "n_embd": 30, "tie_embeddings": True}),
    ("llama", {"n_head": 7, "n_kv_head": 1, "n_embd": 42, "qk_norm": False, "norm_eps": 1e-3}),
]
each_shape = pytest.mark.parametrize(("family", "changes"), SHAPES)


@each_shape
def test_transformers_computes_the_same(
    family: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    model = tiny_model(family, **{"vocab_size": len(ALPHABET), **changes})
    huggingface.write(trained(model), tmp_path, "float32")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert type(theirs).__name__ == hf_config.CLASSES[tensor_names.architecture(model.config)]
    generator = torch.Generator().manual_seed(1)
    size = (3, model.config.block_size)
    idx = torch.randint(len(ALPHABET), size, generator=generator)
    ours = model.eval()(idx, idx)[0]
    logits = theirs(input_ids=idx).logits
    torch.testing.assert_close(logits[..., :-1], ours, rtol=0, atol=1e-5)
    # the end of text that it lacks is as likely as the mean of all
    torch.testing.assert_close(logits[..., -1], ours.mean(-1), rtol=0, atol=1e-5)


@each_shape
def test_their_weights_compute_the_same_here(family: str, changes: dict[str, Any]) -> None:
    """From a model that transformers made, with its own initial weights and configuration."""
    kind = tiny_model(family, **changes).config
    config = transformers.AutoConfig.for_model(**hf_config.to_hf(kind))
    torch.manual_seed(0)
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for p in theirs.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    ours = hf_config.from_hf(config.to_dict(), "it")
    model = tensor_names.build(
        ours, tensor_names.join(ours, theirs.state_dict(), "hf", "it")
    ).eval()
    idx = torch.randint(50, (3, kind.block_size))
    expected = theirs(input_ids=idx).logits
    torch.testing.assert_close(model(idx, idx)[0], expected, rtol=0, atol=1e-5)


@each_shape
def test_a_file_of_transformers_saved_again_is_equal_bit_for_bit(
    family: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    model = tiny_model(family, **{**changes, "vocab_size": len(ALPHABET)})
    config = transformers.AutoConfig.for_model(**hf_config.to_hf(model.config))
    theirs = transformers.AutoModelForCausalLM.from_config(config)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = hf_config.from_hf(config.to_dict(), "it")
    weights = tensor_names.join(ours, theirs.state_dict(), "hf", "it")
    (tmp_path / "ours").mkdir()
    again = trained(tensor_names.build(ours, weights), ends=True)
    huggingface.write(again, tmp_path / "ours", "float32")
    files = [tmp_path / side / "model.safetensors" for side in ("ours", "theirs")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("column", ["hf", "gguf"])
@each_shape
def test_every_tensor_has_one_name_and_comes_back(
    family: str, changes: dict[str, Any], column: tensor_names.Column
) -> None:
    model = tiny_model(family, **changes)
    weights = {name: p.detach() for name, p in model.named_parameters()}
    split = tensor_names.split(model.config, weights, column)
    assert sum(p.numel() for p in split.values()) == sum(p.numel() for p in weights.values())
    back = tensor_names.join(model.config, split, column, "it")
    assert {n: t.shape for n, t in back.items()} == tensor_names.shapes(model.config)
    assert all(torch.equal(back[name], weights[name]) for name in weights)


def test_the_character_tokenizer_round_trips_through_autotokenizer(tmp_path: Path) -> None:
    model = tiny_model("gpt2", vocab_size=len(ALPHABET))
    huggingface.write(trained(model), tmp_path, "float32")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = f" {ALPHABET}  \n\n a . , n't  ! {ALPHABET[::-1]} \t "
    ids = tokenizer.encode(text)
    assert ids == [ALPHABET.index(c) for c in text]
    assert tokenizer.decode(ids) == text
    assert [tokenizer.decode([i]) for i in range(len(ALPHABET))] == list(ALPHABET)


TEXT = "Hello, world!  It's 1623;\n\n\tnaïve café, 中文 𝄞 🎭 don't . n't <|endoftext|>\n" * 3


def bpe() -> Tokenizer:
    """A vocabulary of our own, trained on a text."""
    return factory.choose("bpe", some_text(5000) + TEXT, vocab_size=300)


@pytest.mark.parametrize("make", [ByteTokenizer, bpe, lambda: CharTokenizer.train(TEXT, limit=9)])
def test_every_tokenizer_of_ours_is_the_same_in_autotokenizer(
    make: Callable[[], Tokenizer], tmp_path: Path
) -> None:
    ours = make()
    model = tiny_model("llama", vocab_size=ours.vocab_size)
    told = dataclasses.replace(trained(model), tokenizer=ours)
    huggingface.write(told, tmp_path, "float32")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    plain = TEXT.replace("<|endoftext|>", "")
    ids = theirs.encode(plain)
    assert ids == ours.encode(plain).tolist()
    assert theirs.decode(ids) == ours.decode(ids)
    assert theirs.eos_token_id == theirs.bos_token_id == theirs.pad_token_id
    assert theirs.eos_token_id == (ours.vocab_size if ours.kind == "char" else ours.end_of_text)
    if ours.kind != "char":
        assert theirs.decode(ids) == plain
    found = huggingface.verify(told, tmp_path, "float32")
    assert isinstance(found, verify.Comparison)
    found.check()


def test_the_command_writes_a_folder_and_leaves_the_run_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chars = ALPHABET[:50]
    run = a_run(tmp_path / "run", tiny_model("llama"), chars, tokens=12, config={"n_layer": 2})
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    out = tmp_path / "deep" / "out"
    assert cli.main(["export", str(run), "--format=hf", str(out), "--json"]) == 0
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
    said = capsys.readouterr()
    done = json.loads(said.out)
    assert done["max_difference"] <= 1e-5 and done["greedy"] == done["greedy_wanted"] == 8
    assert "logits differ by at most" in said.err
    assert sorted(p.name for p in out.iterdir()) == sorted(done["files"]) == [
        "README.md", "config.json", "generation_config.json", "model.safetensors",
        "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert [p.name for p in out.parent.iterdir()] == ["out"]
    assert cli.main(["export", str(run), str(out)]) == 2  # it is there already
    assert "already exists" in capsys.readouterr().err


def test_the_pipeline_writes_the_greedy_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chars = ALPHABET[:50]
    run = a_run(tmp_path / "run", tiny_model("llama", block_size=64), chars)
    export(run, tmp_path / "out", form="hf", dtype=None, checkpoint="best", say=silent)
    options = ["--temperature=0", "--num_samples=1", "--max_new_tokens=40", "--dtype=float32"]
    prompt = "\n !abc"
    assert cli.main(["sample", str(run), f"--start={prompt}", *options]) == 0
    ours = capsys.readouterr().out
    write = transformers.pipeline("text-generation", model=str(tmp_path / "out"), device="cpu")
    theirs = write(prompt, max_new_tokens=40, do_sample=False)[0]["generated_text"]
    assert len(set(theirs)) > 5
    assert ours == theirs + "\n---------------\n"


def test_a_difference_fails_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = a_run(tmp_path / "run", tiny_model("llama"), ALPHABET[:50])
    honest = tensor_names.split

    def wrong(*args: Any) -> dict[str, torch.Tensor]:
        tensors = honest(*args)
        tensors["model.norm.weight"] = tensors["model.norm.weight"] + 1e-3
        return tensors

    monkeypatch.setattr(tensor_names, "split", wrong)
    with pytest.raises(CheckpointError, match=r"other logits: they differ by .* more than 0.0001"):
        export(run, tmp_path / "out", form="hf", dtype=None, checkpoint="best", say=silent)
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_another_tokenizer_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = a_run(tmp_path / "run", tiny_model("llama"), ALPHABET[:50])
    other = CharTokenizer(ALPHABET[49::-1]).to_json()
    monkeypatch.setattr(CharTokenizer, "to_json", lambda self: other)
    with pytest.raises(CheckpointError, match="tokenizer finds other tokens"):
        export(run, tmp_path / "out", form="hf", dtype=None, checkpoint="best", say=silent)
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("change", [0.0, 3e-4, float("nan")])
def test_comparing_sees_logits_and_likeliest_tokens(change: float) -> None:
    model = tiny_model("llama")

    def theirs(idx: torch.Tensor) -> torch.Tensor:
        logits = model(idx, idx)[0].clone()
        logits[:, -1, 3] += change
        return logits

    found = verify.compare(trained(model), "it", theirs)
    assert found.greedy_wanted == 8
    if not change:
        assert found.max_difference == 0 and found.greedy == 8
        found.check()
        return
    with pytest.raises(CheckpointError, match="other logits"):
        found.check()


def test_comparing_sees_the_first_token_that_is_another() -> None:
    model = tiny_model("llama")

    def theirs(idx: torch.Tensor) -> torch.Tensor:
        logits = model(idx, idx)[0].clone()
        if idx.size(1) > 8:
            logits[:, 10] = -logits[:, 10]
        return logits

    found = verify.compare(trained(model), "it", theirs, tolerance=1e-4)
    assert found.greedy == 3  # positions 7, 8 and 9 chose the same
    with pytest.raises(CheckpointError, match="3 of 8"):
        dataclasses.replace(found, max_difference=0.0).check()


def test_what_cannot_be_is_a_usage_error(tmp_path: Path) -> None:
    for form, dtype, words in [("hfx", None, "no format"), ("hf", "int3", "no dtype")]:
        with pytest.raises(UsageError, match=words):
            export(tmp_path, tmp_path / "o", form=form, dtype=dtype, checkpoint="best", say=silent)
    assert cli.main(["export", "a", "b", "--format=nanogpt", "--push=x/y"]) == 2


def test_without_transformers_it_is_written_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = a_run(tmp_path / "run", tiny_model("llama"), ALPHABET[:50])
    monkeypatch.setattr(huggingface, "has", lambda name: False)
    said: list[str] = []
    done = export(run, tmp_path / "out", form="hf", dtype=None, checkpoint="best", say=said.append)
    assert said == ["not compared: transformers is not installed (pip install 'bardlet[hf]')"]
    assert "max_difference" not in done


def test_push_uploads_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    calls: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(hub, "create_repo", lambda name, **k: calls.append((name, k)) or "address")
    monkeypatch.setattr(hub, "upload_folder", lambda **k: calls.append((k["repo_id"], k)))
    assert huggingface.push(tmp_path, "me/it") == "address"
    assert calls[0] == ("me/it", {"private": True, "exist_ok": True})
    assert calls[1][1]["folder_path"] == tmp_path
    with pytest.raises(CheckpointError, match="cannot upload to a/b/c"):
        monkeypatch.undo()
        huggingface.push(tmp_path, "a/b/c")


def test_the_model_card_tells_data_recipe_and_loss(dataset_folder: Path) -> None:
    from bardlet.data.dataset.folder import Dataset
    from bardlet.interop.huggingface.model_card import model_card

    data = DatasetRef(name=str(dataset_folder), hash=Dataset(dataset_folder).hash)
    scores = Scores(train_loss=1.0, val_loss=1.23456, bits_per_byte=1.5)
    state = a_state(5, tokens=320, config={"learning_rate": 0.01}, dataset=data, scores=scores)
    told = dataclasses.replace(trained(tiny_model("llama")), state=state, name="a|b\n# c")
    card = model_card(told)
    for line in [
        "# a/b # c", "| validation loss, nats per token | 1.2346 |", "learning_rate = 0.01",
        "| words.txt | 6,000 | `" + "0" * 64 + "` |",
    ]:  # fmt: skip
        assert line in card.splitlines()
    other = dataclasses.replace(state, dataset=dataclasses.replace(data, hash="another"))
    assert "words.txt" not in model_card(dataclasses.replace(told, state=other))


@pytest.mark.slow
def test_gpt2_124m_in_its_true_shape(tmp_path: Path) -> None:
    config = transformers.GPT2Config()
    torch.manual_seed(0)
    theirs = transformers.GPT2LMHeadModel(config).eval()
    ours = hf_config.from_hf(config.to_dict(), "it")
    assert ours.gelu_approximate == "tanh"
    model = tensor_names.build(
        ours, tensor_names.join(ours, theirs.state_dict(), "hf", "it")
    ).eval()
    idx = torch.from_numpy(np.random.default_rng(0).integers(50257, size=(1, 1024)))
    with torch.no_grad():
        expected = theirs(input_ids=idx).logits
        torch.testing.assert_close(model(idx, idx)[0], expected, rtol=0, atol=1e-4)
    huggingface.write(trained(model), tmp_path, "float32")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(input_ids=idx).logits, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "fp16", "BF16"])
def test_half_precision_is_what_transformers_loads(
    dtype: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = a_run(tmp_path / "run", tiny_model("llama"), ALPHABET[:50])
    out = tmp_path / "out"
    assert cli.main(["export", str(run), str(out), f"--dtype={dtype}", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    kind = {"fp16": "float16", "BF16": "bfloat16"}.get(dtype, dtype)
    assert done["dtype"] == kind and done["max_difference"] <= 1e-5
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert model.dtype == getattr(torch, kind) == next(iter(model.parameters())).dtype
    ours = dict(tiny_model("llama").named_parameters())["transformer.h.0.mlp.c_proj.weight"]
    written = model.state_dict()["model.layers.0.mlp.down_proj.weight"]
    assert torch.equal(written, ours.to(getattr(torch, kind)))
    assert cli.main(["import", str(out), str(tmp_path / "back")]) == 0
    assert cli.main(["sample", str(tmp_path / "back"), "--num_samples=1"]) == 0


def test_weights_beyond_float16_are_named(tmp_path: Path) -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.lm_head.weight[0, 0] = 1e5
    with pytest.raises(CheckpointError, match=r"lm_head.weight has weights beyond torch\.float16"):
        huggingface.write(trained(model, ALPHABET[:50]), tmp_path, "float16")

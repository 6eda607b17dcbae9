"""Models and data of other programs, read as they wrote them; and files that lie."""

from __future__ import annotations

import json
import os
import pickle
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support import (
    CHARS,
    a_ckpt,
    a_data_folder,
    a_run,
    logits,
    silent,
    some_text,
    tiny_config,
    tiny_model,
    trained,
)

from bardlet import cli
from bardlet.data.dataset import nanogpt as nanogpt_data
from bardlet.data.dataset import plain_pickle
from bardlet.data.dataset.folder import Dataset
from bardlet.data.tokenizers.byte_tokens import ALPHABET
from bardlet.data.tokenizers.char import CharTokenizer
from bardlet.errors import BardletError, CheckpointError, DataError, UsageError
from bardlet.interop import load, nanogpt, tensor_names
from bardlet.interop.export import export
from bardlet.interop.huggingface import export as huggingface
from bardlet.run import checkpoint, run_folder
from bardlet.run.state import DatasetRef
from bardlet.train import train

transformers = pytest.importorskip("transformers")


def a_folder(folder: Path, family: str = "llama", **changes: Any) -> Path:
    """A model as transformers would have saved it."""
    folder.mkdir(parents=True)
    model = trained(tiny_model(family, **changes), CHARS, ends=True)
    huggingface.write(model, folder, "float32")
    return folder


@pytest.mark.parametrize("tie", [False, True])
def test_a_folder_becomes_a_run_that_every_command_takes(
    tie: bool, tmp_path: Path, dataset_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_model("llama", tie_embeddings=tie)
    (tmp_path / "hf").mkdir()
    huggingface.write(trained(model, CHARS), tmp_path / "hf", "float32")
    out = tmp_path / "out" / "it"
    assert cli.main(["import", str(tmp_path / "hf"), str(out)]) == 0
    assert f"imported from {tmp_path / 'hf'}" in capsys.readouterr().out
    again, tokenizer, state = checkpoint.load(run_folder.find(out))
    assert torch.equal(logits(again), logits(model))
    assert isinstance(tokenizer, CharTokenizer) and tokenizer.chars == CHARS
    assert state.iter == 0
    assert cli.main(["inspect", str(out)]) == 0
    assert cli.main(["sample", str(out), "--num_samples=1", "--max_new_tokens=9"]) == 0
    assert cli.main(["export", str(out), str(tmp_path / "again")]) == 0
    files = [tmp_path / side / "model.safetensors" for side in ("hf", "again")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert cli.main(["import", str(tmp_path / "hf"), str(out)]) == 2  # it is there
    capsys.readouterr()
    assert cli.main(["eval", str(out)]) == 2
    assert "Name the data with --dataset" in capsys.readouterr().err
    assert cli.main(["eval", str(out), "--dataset", str(dataset_folder)]) == 1
    assert "another tokenizer" in capsys.readouterr().err


def test_a_folder_of_links_as_the_hubs_cache_is(tmp_path: Path) -> None:
    real = a_folder(tmp_path / "blobs")
    links = tmp_path / "snapshots" / "abc"
    links.mkdir(parents=True)
    for file in real.iterdir():
        (links / file.name).symlink_to(file)
    found = load.load_model(str(links))
    assert torch.equal(logits(found.model), logits(load.load_model(str(real)).model))


def test_a_sharded_model_with_old_names_and_buffers(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "hf", "gpt2")
    expected = load.load_model(str(folder)).model
    tensors = {n.removeprefix("transformer."): t for n, t in
               load_file(folder / "model.safetensors").items()}  # fmt: skip
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 16, 16).tril()
    tensors["lm_head.weight"] = tensors["wte.weight"].clone()
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {f"model-0000{i}-of-00002.safetensors": names[i::2] for i in (0, 1)}
    for file, held in files.items():
        save_file({name: tensors[name] for name in held}, folder / file)
    index = {"weight_map": {name: file for file, held in files.items() for name in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert torch.equal(logits(load.load_model(str(folder)).model), logits(expected))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_becomes_float32_exactly(dtype: torch.dtype, tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "hf")
    tensors = {n: t.to(dtype) for n, t in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors")
    model = load.load_model(str(folder)).model
    split = tensor_names.split(model.config, dict(model.named_parameters()), "hf")
    assert all(t.dtype == torch.float32 for t in split.values())
    assert all(torch.equal(t, tensors[n].float()) for n, t in split.items())


def test_the_context_is_cropped_to_its_first_positions(tmp_path: Path, family: str) -> None:
    folder = a_folder(tmp_path / "hf", family)
    whole, cut = (load.load_model(str(folder), block_size=size).model for size in (0, 8))
    assert cut.config.block_size == 8
    idx = torch.arange(8)[None]
    torch.testing.assert_close(cut(idx, idx)[0], whole(idx, idx)[0], rtol=0, atol=1e-6)
    with pytest.raises(UsageError, match="block_size=17 is above the 16"):
        load.load_model(str(folder), block_size=17)


# --- nanoGPT


@pytest.mark.parametrize("bias", [False, True])
def test_nanogpts_checkpoint(bias: bool, tmp_path: Path) -> None:
    model = tiny_model("gpt2", bias=bias)
    a_data_folder(tmp_path / "nanoGPT" / "data" / "shakespeare_char")
    path = a_ckpt(tmp_path / "nanoGPT" / "out" / "ckpt.pt", model)
    for source in (path, path.parent):
        found = load.load_model(str(source))
        assert torch.equal(logits(found.model), logits(model))
        assert isinstance(found.tokenizer, CharTokenizer) and found.tokenizer.chars == CHARS
    assert cli.main(["import", str(path), str(tmp_path / "run")]) == 0
    assert cli.main(["export", str(tmp_path / "run"), str(tmp_path / "back"),
                     "--format=nanogpt"]) == 0  # fmt: skip
    saved = torch.load(tmp_path / "back" / "ckpt.pt", weights_only=True)
    assert saved["model_args"] == {n: getattr(model.config, n) for n in nanogpt.SHAPE}
    assert set(saved["model"]) == set(model.state_dict())
    assert all(torch.equal(saved["model"][n], t) for n, t in model.state_dict().items())
    assert pickle.loads((tmp_path / "back" / "meta.pkl").read_bytes()) == {
        "vocab_size": 50, "itos": dict(enumerate(CHARS)),
        "stoi": {c: i for i, c in enumerate(CHARS)},
    }  # fmt: skip


def test_nanogpts_masks_and_missing_bias_flag(tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    path = a_ckpt(tmp_path / "ckpt.pt", model, prefix="")
    shutil.copy(a_data_folder(tmp_path / "d") / "meta.pkl", tmp_path / "meta.pkl")
    saved = torch.load(path, weights_only=True)
    del saved["model_args"]["bias"]
    saved["model"]["transformer.h.0.attn.bias"] = torch.ones(1, 1, 16, 16)
    torch.save(saved, path)
    assert torch.equal(logits(load.load_model(str(path)).model), logits(model))


def test_what_nanogpt_cannot_be_is_refused(tmp_path: Path) -> None:
    for i, (family, changes, words) in enumerate([
        ("llama", {}, "family=llama"),
        ("gpt2", {"gelu_approximate": "tanh", "norm_eps": 1e-6}, "norm_eps=1e-06, gelu_approx"),
        ("gpt2", {"mlp_dim": 40}, "mlp_dim=40"),
    ]):  # fmt: skip
        run = a_run(tmp_path / f"run{i}", tiny_model(family, **changes), CHARS)
        with pytest.raises(CheckpointError, match=words):
            export(
                str(run), tmp_path / "o", form="nanogpt", dtype=None, checkpoint="best", say=silent
            )
    assert not (tmp_path / "o").exists()


def test_nanogpts_data_folder_opens_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = some_text(3000)
    folder = a_data_folder(tmp_path / "data" / "shakespeare_char", text)
    data = Dataset(folder)
    read = [data.tokenizer.decode(s.read(0, len(s))) for s in data.splits.values()]
    assert read == [text[:2700], text[2700:]]
    data.verify()
    before = data.hash
    assert cli.main(["inspect", str(folder)]) == 0
    assert "train: 2,700 tokens, 2,700 bytes, 1.00 bytes per token" in capsys.readouterr().out
    (folder / "val.bin").write_bytes(bytes(8))
    assert Dataset(folder).hash != before
    (folder / "val.bin").write_bytes(bytes(7))
    with pytest.raises(DataError, match=r"val.bin has 7 bytes"):
        Dataset(folder)
    np.array([50], dtype=np.uint16).tofile(folder / "val.bin")
    with pytest.raises(DataError, match="token 50 lies beyond the vocabulary of 50"):
        Dataset(folder).splits["val"].read(0, 1)


def test_training_on_nanogpts_data_folder(tmp_path: Path) -> None:
    folder = a_data_folder(tmp_path / "d")
    result = train(tiny_config(folder, tmp_path / "out", "gpt2"))
    assert result.iter == 8 and result.val_loss < 4.0
    assert (
        checkpoint.load(run_folder.find(tmp_path / "out"))[2].dataset.hash == Dataset(folder).hash
    )


PEER = os.environ.get("BARDLET_NANOGPT", "")


@pytest.mark.slow
@pytest.mark.skipif(not PEER, reason="BARDLET_NANOGPT is not a clone of nanoGPT")
def test_nanogpts_own_sample_reads_our_export(tmp_path: Path) -> None:
    """sample.py at top_k=1 is greedy, so it must write what we write."""
    named = DatasetRef(name=str(tmp_path / "data" / "my chars"), hash="0")
    run = a_run(tmp_path / "run", tiny_model("gpt2", block_size=64), CHARS, dataset=named)
    done = export(
        str(run), tmp_path / "out", form="nanogpt", dtype=None, checkpoint="best", say=silent
    )
    work = tmp_path / "work"
    work.mkdir()
    for file in ("configurator.py", "sample.py", "model.py"):
        shutil.copy(Path(PEER) / file, work)
    prompt = CHARS[3:9]
    options = f"--start={shlex.quote(prompt)} --dtype=float32 --num_samples=1"
    options += " --max_new_tokens=50 --top_k=1"
    copy, sample = done["next"]
    # the commands that the export prints
    subprocess.run(copy, shell=True, cwd=work, check=True)
    assert (work / "data" / "my chars" / "meta.pkl").is_file()
    done = subprocess.run(
        sample.replace("python", sys.executable, 1) + " " + options,
        shell=True, cwd=work, capture_output=True, text=True, check=True,
    )  # fmt: skip
    model, tokenizer, _ = checkpoint.load(run_folder.find(run))
    from bardlet.sample import generate
    from bardlet.sampling.filters import Sampling

    ids = torch.from_numpy(tokenizer.encode(prompt).astype(np.int64))
    chosen = torch.stack(
        list(generate(model, ids, max_new_tokens=50, sampling=Sampling(temperature=0)))
    )
    expected = prompt + tokenizer.decode(chosen[:, 0].numpy())
    assert done.stdout.endswith(f"{expected}\n---------------\n")


# --- files that lie


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")


def reweigh(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


NORM = "model.norm.weight"
LIES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "missing": (lambda t: t.pop(NORM), f"missing: {NORM}"),
    "unexpected": (lambda t: t.update(evil=torch.zeros(2)), "unexpected: evil"),
    "shape": (lambda t: t.update({NORM: torch.zeros(3)}), rf"{NORM} \(3,\), not \(32,\)"),
    "type": (lambda t: t.update({NORM: torch.zeros(32, dtype=torch.int8)}), "not of floating"),
}
CONFIG_LIES: dict[str, tuple[dict[str, Any], str]] = {
    "architecture": ({"model_type": "mamba"}, "architecture 'mamba'. Known are gpt2, llama, qwen3"),
    "list of architectures": ({"model_type": ["llama"]}, r"architecture \['llama'\]"),
    "layer types": ({"layer_types": 7}, "invalid value layer_types=7"),
    "layers": ({"num_hidden_layers": 3}, "missing: model.layers.2.input_layernorm.weight, .* and"),
    "many layers": ({"num_hidden_layers": 10**6}, "n_layer=1000000 is above 1000"),
    "text": ({"hidden_size": "32"}, "invalid value hidden_size='32'"),
    "negative": ({"vocab_size": -1}, "invalid value vocab_size=-1"),
    "zero": ({"num_attention_heads": 0}, "invalid value n_head=0"),
    "huge": ({"hidden_size": 2**60}, "invalid value hidden_size=1152921504606846976"),
    "absent": ({"intermediate_size": None}, "intermediate_size is missing"),
    "heads": ({"num_key_value_heads": 3}, "n_head=4 is not divisible by n_kv_head=3"),
    "odd": ({"head_dim": 7}, "even head size, not 7"),
    "scaling": ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
                "rope_scaling of the type 'llama3' is not supported"),
    "old scaling": ({"rope_scaling": {"type": "linear"}}, "rope_scaling of the type 'linear'"),
    "parameters": ({"rope_parameters": {"rope_type": "yarn"}}, "of the type 'yarn' is"),
    "rope text": ({"rope_scaling": "yes"}, "invalid value rope_scaling='yes'"),
    "theta": ({"rope_parameters": {"rope_theta": "x"}}, "invalid value rope_theta='x'"),
    "bias": ({"attention_bias": True}, "attention_bias=True is not supported, only False"),
    "window": ({"use_sliding_window": True}, "use_sliding_window=True is not supported"),
    "window layers": ({"layer_types": ["full_attention", "sliding_attention"]},
                      "layer_types='sliding_attention' is not supported"),
    "activation": ({"hidden_act": "gelu"}, "hidden_act='gelu' is not supported"),
    "quantised": ({"quantization_config": {"bits": 4}}, "quantization_config is not supported"),
    "tied": ({"tie_word_embeddings": True}, "lm_head.weight differs from model.embed_"),
    "vocabulary": ({"vocab_size": 49}, r"model.embed_tokens.weight \(50, 32\), not \(49, 32\)"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_tensors_that_lie_are_named(lie: str, tmp_path: Path) -> None:
    change, words = LIES[lie]
    folder = a_folder(tmp_path / "hf")
    reweigh(folder, change)
    with pytest.raises(CheckpointError, match=words):
        load.load_model(str(folder))


@pytest.mark.parametrize("lie", CONFIG_LIES)
def test_a_config_that_lies_is_refused_by_its_key(lie: str, tmp_path: Path) -> None:
    change, words = CONFIG_LIES[lie]
    folder = a_folder(tmp_path / "hf")
    rewrite(folder / "config.json", lambda document: document.update(change))
    with pytest.raises(CheckpointError, match=words) as error:
        load.load_model(str(folder))
    assert str(folder) in str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"activation_function": "relu"}, "activation_function='relu' is not one of gelu"),
        ({"activation_function": ["gelu"]}, r"activation_function=\['gelu'\] is not one of gelu"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings=False is not supported"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True"),
    ],
)
def test_gpt2s_that_ours_cannot_be(change: dict, words: str, tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "hf", "gpt2")
    rewrite(folder / "config.json", lambda document: document.update(change))
    with pytest.raises(CheckpointError, match=words):
        load.load_model(str(folder))


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("model.safetensors", None, "has no model.safetensors. Other files of weights can run"),
        ("model.safetensors", b"", "model.safetensors is damaged"),
        ("model.safetensors", b"\xff" * 100, "model.safetensors is damaged"),
        ("config.json", b"{", "config.json"),
        ("config.json", b"[]", "config.json"),
        ("config.json", b"[" * 10**5, "config.json"),
        ("tokenizer.json", b"{}", "tokenizer.json"),
        ("tokenizer.json", None, "comes without a tokenizer, and its vocabulary of 50 is not"),
        ("model.safetensors.index.json", b"{}", "it has no weight_map"),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "../x"}}', "another folder: ../x"),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "model.safetensors"}}',
         "names tensors that are not in their files: a"),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "lost.safetensors"}}',
         "lost.safetensors is damaged"),
    ],
)  # fmt: skip
def test_files_that_lie(file: str, content: bytes | None, words: str, tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "hf")
    (folder / file).unlink(missing_ok=True)
    if content is not None:
        (folder / file).write_bytes(content)
    with pytest.raises(BardletError, match=re.escape(words)):
        load.load_model(str(folder))
    assert cli.main(["import", str(folder), str(tmp_path / "out")]) in (1, 2)
    assert not (tmp_path / "out").exists()


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "hf")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        load.load_model(str(folder))


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "hf")
    text = CharTokenizer(CHARS + "é").to_json()
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="has 51 tokens, its model's vocabulary 50"):
        load.load_model(str(folder))


def test_a_folder_may_have_its_vocabulary_in_gpt2s_files(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "hf", vocab_size=300)
    (folder / "tokenizer.json").unlink()
    vocab = {token: i for i, token in enumerate([*ALPHABET, "ab", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\na b\n", encoding="utf-8")
    tokenizer = load.load_model(str(folder)).tokenizer
    assert tokenizer.encode("abba").tolist() == [256, vocab["b"], vocab["a"]]
    assert tokenizer.end_of_text == 257


class Evil:
    """What a pickle can do to the program that reads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_checkpoint_that_would_run_code_does_not(tmp_path: Path) -> None:
    mark = tmp_path / "it_ran"
    path = a_ckpt(tmp_path / "ckpt.pt", tiny_model("gpt2"), extra=Evil(mark))
    with pytest.raises(CheckpointError, match=r"ckpt.pt cannot be read: .*") as error:
        load.load_model(str(path))
    assert "tensors and plain values only" in error.value.hint
    assert not mark.exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("model"), "it has no model and model_args"),
        (lambda s: s.update(model={"a": 1}), "it has no model and model_args"),
        (lambda s: s["model_args"].update(n_layer=-1), "invalid value n_layer=-1"),
        (lambda s: s["model_args"].update(n_head=5), "n_embd=32 is not divisible by n_head=5"),
        (lambda s: s["model_args"].update(bias="x"), "bias='x'"),
        (lambda s: s["model_args"].update(n_layer=3), "missing: transformer.h.2.ln_1.weight"),
        (lambda s: s["model"].pop("_orig_mod.transformer.wpe.weight"), "missing: transformer.wpe"),
        (lambda s: s["model"].update({"_orig_mod.lm_head.weight": torch.zeros(50, 32)}),
         "lm_head.weight differs from transformer.wte.weight"),
    ],
)  # fmt: skip
def test_checkpoints_of_nanogpt_that_lie(
    change: Callable[[dict[str, Any]], Any], words: str, tmp_path: Path
) -> None:
    path = a_ckpt(tmp_path / "ckpt.pt", tiny_model("gpt2"))
    saved = torch.load(path, weights_only=True)
    change(saved)
    torch.save(saved, path)
    with pytest.raises(CheckpointError, match=words):
        load.load_model(str(path))


@pytest.mark.parametrize("keep", [0, 1, 100, -50])
def test_a_truncated_checkpoint_of_nanogpt(keep: int, tmp_path: Path) -> None:
    path = a_ckpt(tmp_path / "ckpt.pt", tiny_model("gpt2"))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"ckpt\.pt cannot be read"):
        load.load_model(str(path))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_pickles_are_read_as_python_reads_them(protocol: int) -> None:
    value = {"a": [1, -5, 2**40, -(2**70), "é𝄞", {"b": []}], "itos": dict(enumerate("xyz\n"))}
    value["again"] = value["a"]
    assert plain_pickle.read(pickle.dumps(value, protocol), "it") == value
    small = {"a": [1, -5], "b": "é𝄞", "c": {}, "d": []}
    assert pickle.loads(plain_pickle.write(small)) == small


@pytest.mark.parametrize(
    "value", [Evil(Path("x")), 1.5, b"x", (1,), {1}, print, None, {"a": [complex(1)]}, ...]
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickles_of_anything_else_are_refused(value: object, protocol: int) -> None:
    with pytest.raises(DataError, match="holds more than dicts, lists, strings and integers"):
        plain_pickle.read(pickle.dumps(value, protocol), "meta.pkl")


@pytest.mark.parametrize(
    "data",
    [b"", b".", b"(.", b"}u.", b"K\x01a.", b"}K\x01s.", b"X\xff\xff\xff\x7fa.", b"h\x05.",
     b"]K\x01u.", b"}(K\x01u.", b"}(]K\x01u.", b"}]s.", b"(]eK\x01.", b"\x80\x04\x95",
     b"I" + b"9" * 5000 + b"\n.", b"r\xff\xff\xff\xff."],
)  # fmt: skip
def test_damaged_pickles(data: bytes) -> None:
    with pytest.raises(DataError, match="is damaged"):
        plain_pickle.read(data, "meta.pkl")


def test_a_meta_names_every_id_and_encodes_characters_only() -> None:
    found = nanogpt_data.meta(CharTokenizer("ab", unknown=True, ends=True))
    assert found == {
        "vocab_size": 4, "itos": {0: "a", 1: "b", 2: "<unk>", 3: "<|endoftext|>"},
        "stoi": {"a": 0, "b": 1},
    }  # fmt: skip


def test_a_pickle_larger_than_any_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    data = plain_pickle.write(["a" * 100])
    monkeypatch.setattr(plain_pickle, "MAX_BYTES", len(data))
    assert plain_pickle.read(data, "meta.pkl") == ["a" * 100]
    monkeypatch.setattr(plain_pickle, "MAX_BYTES", len(data) - 1)
    with pytest.raises(DataError, match=f"it has {len(data)} bytes"):
        plain_pickle.read(data, "meta.pkl")


@pytest.mark.parametrize(
    "meta",
    [[], {}, {"stoi": []}, {"stoi": {}}, {"stoi": {"a": 1}}, {"stoi": {"ab": 0}}, {"stoi": {0: 0}},
     {"stoi": {"a": "0"}}],
)  # fmt: skip
def test_a_meta_that_lies(meta: object, tmp_path: Path) -> None:
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(meta))
    with pytest.raises(DataError, match=r"meta\.pkl"):
        nanogpt_data.of_meta(tmp_path / "meta.pkl")


# --- names


def test_names_of_the_hub_and_of_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    folder = a_folder(tmp_path / "cache")
    asked: list[str] = []

    def snapshot(name: str, allow_patterns: list[str]) -> str:
        asked.append(name)
        if name == "me/gone":
            raise OSError("offline\nand more")
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    assert load.load_model("gpt2-xl").name == "gpt2-xl"
    assert load.load_model("me/it").source == "me/it"
    with pytest.raises(UsageError, match=r"the hub does not give it: offline\. Without"):
        load.load_model("me/gone")
    assert asked == ["openai-community/gpt2-xl", "me/it", "me/gone"]
    for name in ("out/typo", "gpt3", "../x", "a/b/c"):
        with pytest.raises(BardletError, match=f"no run at {re.escape(name)}"):
            load.load_model(name)
    monkeypatch.setattr("bardlet.system.optional_deps.has", lambda name: False)
    with pytest.raises(UsageError, match=r"needs the package huggingface_hub. Install it: pip"):
        load.load_model("gpt2")


@pytest.mark.parametrize("other", ["ckpt.pt", "config.json"])
def test_the_run_just_trained_wins_over_an_older_model_beside_it(
    other: str, tmp_path: Path, dataset_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `sample`, `export` and `init_from` load, and what `eval` and `inspect` show."""
    out, tokenizer = tmp_path / "out", Dataset(dataset_folder).tokenizer
    assert isinstance(tokenizer, CharTokenizer)
    old = tiny_model("gpt2", vocab_size=tokenizer.vocab_size)
    if other == "ckpt.pt":
        a_ckpt(out / "ckpt.pt", old)
        (out / "meta.pkl").write_bytes(pickle.dumps(nanogpt_data.meta(tokenizer)))
    else:
        out.mkdir()
        huggingface.write(trained(old, tokenizer.chars), out, "float32")
    train(tiny_config(dataset_folder, out, "gpt2", max_iters=2))
    newest = run_folder.newest(out)
    want = load_file(newest / "model.safetensors")
    capsys.readouterr()
    read = load.load_model(str(out))
    assert read.source == str(newest)
    assert all(torch.equal(p.cpu(), want[n]) for n, p in read.model.named_parameters())
    assert f"taking the run that was trained in {out}, not {out / other}" in capsys.readouterr().err
    assert cli.main(["eval", str(out), "--json", "--device=cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["checkpoint"] == str(newest)
    assert cli.main(["inspect", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["last"]["path"] == str(newest)
    for folder in run_folder.checkpoints(out):
        run_folder.remove(folder)
    load.load_model(str(out))
    assert "has no checkpoint yet: taking" in capsys.readouterr().err


def test_a_character_model_that_transformers_saved_again_is_the_same_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, chars = a_data_folder(tmp_path / "data", some_text(3000)), CHARS
    model = tiny_model("gpt2")
    run = a_run(tmp_path / "run", model, chars)
    export(str(run), tmp_path / "hf", form="hf", dtype=None, checkpoint="best", say=silent)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    ends = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    assert ends == {len(chars)} and theirs.config.vocab_size == len(chars) + 1
    for part in (theirs, tokenizer):
        part.save_pretrained(tmp_path / "saved")
    again = load.load_model(str(tmp_path / "saved"))
    assert isinstance(again.tokenizer, CharTokenizer) and again.tokenizer.chars == chars
    assert again.model.config.vocab_size == len(chars)
    ours = dict(model.named_parameters())
    assert all(torch.equal(p, ours[n]) for n, p in again.model.named_parameters() if n in ours)
    dataset = f"--dataset={folder}"
    capsys.readouterr()
    losses = []
    for source in (run, tmp_path / "saved"):
        assert cli.main(["eval", str(source), dataset, "--json", "--dtype=float32"]) == 0
        losses.append(json.loads(capsys.readouterr().out)["loss"])
    assert losses[0] == losses[1]
    export(str(tmp_path / "saved"), tmp_path / "back", form="nanogpt", dtype=None,
           checkpoint="best", say=silent)  # fmt: skip
    assert pickle.loads((tmp_path / "back" / "meta.pkl").read_bytes())["stoi"]["q"] == chars.index(
        "q"
    )


def test_a_row_that_was_trained_elsewhere_is_kept(tmp_path: Path) -> None:
    huggingface_folder = tmp_path / "hf"
    row = torch.zeros(51, 32)
    row[-1] = 0.1
    huggingface_folder.mkdir()
    huggingface.write(trained(tiny_model("llama"), CHARS), huggingface_folder, "float32")
    reweigh(huggingface_folder, lambda t: t.update({"lm_head.weight": t["lm_head.weight"] + row}))
    found = load.load_model(str(huggingface_folder))
    assert found.model.config.vocab_size == 51 and found.tokenizer.vocab_size == 50


def test_tokens_that_the_model_has_no_rows_for_are_left_out(tmp_path: Path) -> None:
    """A tokenizer that was given a token for padding, beside a model that was not resized."""
    folder = a_folder(tmp_path / "hf")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    assert "[PAD]" in (folder / "tokenizer.json").read_text(encoding="utf-8")
    found = load.load_model(str(folder)).tokenizer
    assert found.vocab_size == 50 and found.kind == "char"


@pytest.mark.parametrize(
    ("dataset", "name"),
    [("", "run"), ("chars", "chars"), ("/x/data/chars", "chars"), ("a/b:0.7,c:0.3", "b")],
)
def test_an_export_to_nanogpt_names_the_dataset_and_where_its_characters_go(
    dataset: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = DatasetRef(name=dataset, hash="0")
    run = a_run(tmp_path / "run", tiny_model("gpt2"), CHARS, dataset=known)
    out = tmp_path / "out"
    assert cli.main(["export", str(run), str(out), "--format=nanogpt"]) == 0
    assert torch.load(out / "ckpt.pt", weights_only=True)["config"] == {"dataset": name}
    said = capsys.readouterr().err
    assert f"mkdir -p data/{name} && cp {out}/meta.pkl data/{name}/meta.pkl" in said
    assert f"python sample.py --out_dir={out} --device=cpu" in said


def test_a_checkpoint_of_nanogpt_is_evaluated_on_the_dataset_that_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In nanoGPT's folder, from elsewhere, and imported; and where the dataset lies here."""
    there, here = tmp_path / "nanoGPT", tmp_path / "here"
    data = a_data_folder(there / "data" / "shakespeare_char", some_text(3000))
    path = a_ckpt(there / "out" / "ckpt.pt", tiny_model("gpt2"))
    here.mkdir()
    found = []
    for folder, source in ((there, "out"), (here, str(path)), (here, "run")):
        monkeypatch.chdir(folder)
        if source == "run":
            assert cli.main(["import", str(path), "run"]) == 0
        capsys.readouterr()
        assert cli.main(["eval", source, "--json", "--dtype=float32"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert [score["dataset"] for score in found] == ["shakespeare_char", str(data), str(data)]
    assert len({score["loss"] for score in found}) == 1
    shutil.move(data, here / "data" / "shakespeare_char")
    assert cli.main(["eval", "run", "--json", "--dtype=float32"]) == 0
    assert json.loads(capsys.readouterr().out)["dataset"] == "shakespeare_char"


@pytest.mark.parametrize(
    ("kind", "changes", "context"),
    [("mistral", {"sliding_window": None}, 16), ("mistral", {"sliding_window": 8}, 8),
     ("mistral", {"sliding_window": 4096, "head_dim": 6}, 16), ("qwen2", {}, 16)],
)  # fmt: skip
def test_models_of_mistral_and_qwen2_compute_the_same(
    kind: str, changes: dict[str, Any], context: int, tmp_path: Path
) -> None:
    """As transformers saves them, with weights that are all random."""
    config = transformers.AutoConfig.for_model(
        kind, vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=48, max_position_embeddings=16, **changes,
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for p in theirs.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    theirs.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(CharTokenizer(CHARS).to_json(), encoding="utf-8")
    model = load.load_model(str(tmp_path)).model
    assert model.config.block_size == context
    idx = torch.randint(50, (2, context), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(input_ids=idx).logits
        torch.testing.assert_close(model(idx, idx)[0], expected, rtol=0, atol=1e-5)
    sources = {"qwen2": "qwen2", "mistral": "llama"}
    assert tensor_names.architecture(model.config) == sources[kind]


@pytest.mark.parametrize("size", [0, "8", True])
def test_a_window_that_lies_is_refused(size: object, tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "hf", qk_norm=False)
    change = {"model_type": "mistral", "sliding_window": size}
    rewrite(folder / "config.json", lambda document: document.update(change))
    with pytest.raises(CheckpointError, match="invalid value sliding_window"):
        load.load_model(str(folder))


def test_a_model_with_biases_of_queries_and_keys_is_trained_and_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = a_data_folder(tmp_path / "data", some_text(3000))
    run = a_run(tmp_path / "run", tiny_model("llama", qk_norm=False, qkv_bias=True), CHARS)
    out = tmp_path / "out"
    options = [f"--dataset={data}", f"--out_dir={out}", "--device=cpu", "--batch_size=2"]
    args = [*options, f"--init_from={run}", "--learning_rate=1e-3", "--decay_lr=false"]
    assert cli.main(["train", "finetune-shakespeare", *args, "--max_iters=2"]) == 0
    assert cli.main(["train", "--resume", *options, "--max_iters=3"]) == 0
    assert checkpoint.load(run_folder.find(out, "last"))[0].config.qkv_bias
    assert cli.main(["sample", str(out), "--num_samples=1", "--max_new_tokens=3"]) == 0

"""GGUF files: against the gguf package, against llama.cpp, and where they lie."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import a_state, some_text, tiny_model

from bardlet import cli
from bardlet.data.tokenizers.base import Tokenizer, from_json
from bardlet.data.tokenizers.bpe_training import train
from bardlet.data.tokenizers.byte import ByteTokenizer
from bardlet.data.tokenizers.char import CharTokenizer
from bardlet.errors import BardletError, CheckpointError
from bardlet.interop.gguf import export as gguf
from bardlet.interop.gguf import file as gguf_file
from bardlet.interop.gguf import llamacpp
from bardlet.interop.gguf import model as gguf_model
from bardlet.interop.gguf import quant as gguf_quant
from bardlet.interop.gguf import vocab as gguf_vocab
from bardlet.interop.verify import Comparison, Trained
from bardlet.model import GPT
from bardlet.run import checkpoint, run_folder

oracle = pytest.importorskip("gguf")
needs_llamacpp = pytest.mark.skipif(
    not gguf.has(llamacpp.PACKAGE), reason="xllamacpp is not installed"
)
ALPHABET = "\n\t !;.:ABCabcdefgh\x00éüß漢字かな😀𝄞"  # token 11 would end texts if nothing else did
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {}),
    "gpt2 without biases": ("gpt2", {"bias": False}),
    "gpt2 of tanh": ("gpt2", {"gelu_approximate": "tanh", "mlp_dim": 64}),
    "llama, grouped queries": ("llama", {"qk_norm": False}),
    "llama, tied": ("llama", {"qk_norm": False, "tie_embeddings": True, "n_kv_head": 4}),
    "qwen2": ("llama", {"qk_norm": False, "qkv_bias": True}),
    "llama, odd": ("llama", {"qk_norm": False, "n_head": 3, "n_kv_head": 1, "head_dim": 6}),
    "qwen3": ("llama", {"rope_theta": 500.0, "norm_eps": 1e-6}),
    "qwen3, tied": ("llama", {"tie_embeddings": True, "head_dim": 16}),
}
each_shape = pytest.mark.parametrize("shape", SHAPES)


def trained(shape: str, tokenizer: Tokenizer | None = None, **changes: Any) -> Trained:
    """A random model as an export takes it."""
    tokenizer = tokenizer or CharTokenizer(ALPHABET)
    family, options = SHAPES[shape]
    options = {"block_size": 80, "vocab_size": tokenizer.vocab_size, **options, **changes}
    model = tiny_model(family, **options).eval()
    return Trained(name="a run", model=model, tokenizer=tokenizer, state=a_state())


def written(folder: Path, shape: str = "qwen3", dtype: str = "F32", **changes: Any) -> Path:
    """The GGUF file of a random model."""
    gguf.write(trained(shape, **changes), folder, dtype)
    return next(folder.glob("*.gguf"))


def rewritten(path: Path, change: Callable[[dict[str, Any], dict[str, np.ndarray]], None]) -> Path:
    """The same file with other keys or tensors, all of them float32."""
    file = gguf_file.read(path)
    metadata = dict(file.metadata)
    tensors = {name: file.tensor(name) for name in file.tensors}
    change(metadata, tensors)
    gguf_file.write(path, metadata, {name: ("F32", t) for name, t in tensors.items()})
    return path


# dtypes -----------------------------------------------------------------------------------------


PLAIN = [name for name in gguf_quant.QUANT_TYPES if not name.endswith("_K")]


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_numbers_are_those_of_the_gguf_package(name: str, scale: float) -> None:
    rows = np.random.default_rng(0).normal(size=(6, 96)).astype(np.float32) * np.float32(scale)
    rows[1], rows[2, :32], rows[3, 5] = 0, rows[2, 0], -4 * scale
    kind = oracle.GGMLQuantizationType[name]
    theirs = oracle.quants.quantize(rows, kind)
    raw = np.frombuffer(theirs.tobytes(), dtype=np.uint8)
    if name in gguf_quant.WRITABLE:
        assert np.array_equal(gguf_quant.encode(rows, name), raw)
    decoded = gguf_quant.decode(raw, name)
    assert np.array_equal(decoded, oracle.quants.dequantize(theirs, kind).reshape(-1))
    assert decoded.dtype == np.float32


# files --------------------------------------------------------------------------------------------


def test_the_gguf_package_reads_what_we_write(tmp_path: Path) -> None:
    path = written(tmp_path, dtype="Q8_0")
    file, reader = gguf_file.read(path), oracle.GGUFReader(path)
    theirs = {k: f.contents() for k, f in reader.fields.items() if not k.startswith("GGUF.")}
    assert theirs == file.metadata
    assert [t.name for t in reader.tensors] == list(file.tensors)
    for tensor in reader.tensors:
        values = oracle.quants.dequantize(tensor.data, tensor.tensor_type)
        assert np.array_equal(values, file.tensor(tensor.name))
        assert tensor.data_offset % gguf_file.ALIGNMENT == 0


K_QUANTS = [name for name in gguf_quant.QUANT_TYPES if name.endswith("_K")]


@pytest.mark.parametrize("name", K_QUANTS)
def test_k_quants_of_any_bytes_are_those_of_the_gguf_package(name: str) -> None:
    """Which writes none, so that every byte is drawn but for the scales, which are numbers."""
    generator = np.random.default_rng(0)
    size = gguf_quant.QUANT_TYPES[name].block_bytes
    raw = generator.integers(0, 256, size=(20, size), dtype=np.uint8)
    for at in [208] if name == "Q6_K" else [0, 2]:
        raw[:, at : at + 2] = generator.normal(size=(20, 1)).astype("<f2").view(np.uint8)
    theirs = oracle.quants.dequantize(raw, oracle.GGMLQuantizationType[name])
    assert np.array_equal(gguf_quant.decode(raw.reshape(-1), name), theirs.reshape(-1))


@pytest.mark.parametrize(("name", "error"), [("Q4_K", 0.1), ("Q6_K", 0.025)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_k_quants_round_each_block_by_little(name: str, error: float, scale: float) -> None:
    rows = np.random.default_rng(0).normal(size=(8, 256)).astype(np.float32) * np.float32(scale)
    rows[1], rows[2], rows[3, 5], rows[4, :32] = 0, scale, -4 * scale, 0
    rows[5] += 3 * scale
    raw = gguf_quant.encode(rows, name)
    assert len(raw) == 8 * gguf_quant.QUANT_TYPES[name].block_bytes
    back = gguf_quant.decode(raw, name).reshape(rows.shape)
    off = np.linalg.norm(back - rows, axis=1) / np.maximum(np.linalg.norm(rows, axis=1), 1e-30)
    assert off.max() < error and not back[1].any()


@needs_llamacpp
@pytest.mark.parametrize("dtype", ["Q4_K_M", "Q6_K"])
def test_llamacpp_runs_k_quants(dtype: str, tmp_path: Path) -> None:
    wide: dict[str, Any] = {"n_embd": 256, "n_head": 4, "mlp_dim": 256, "block_size": 40}
    check(trained("llama, tied", **wide), tmp_path, dtype)
    file = gguf_file.read(next(tmp_path.glob("*.gguf")))
    kinds = {name: info.dtype for name, info in file.tensors.items() if len(info.shape) == 2}
    assert kinds["token_embd.weight"] == kinds["blk.1.ffn_down.weight"] == "Q6_K"
    assert kinds["blk.0.ffn_up.weight"] == dtype.removesuffix("_M")
    assert set(kinds.values()) <= {"Q4_K", "Q6_K"}


def test_we_read_what_the_gguf_package_writes(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    writer = oracle.GGUFWriter(path, "llama")
    values = {
        "uint8": 255, "int8": -1, "uint16": 65535, "int16": -2, "uint32": 1 << 31, "int32": -3,
        "float32": 0.5, "uint64": 1 << 60, "int64": -4, "float64": 0.1, "bool": True,
        "string": "é\n", "array": ["a", "", "ü"],
    }  # fmt: skip
    for kind, value in values.items():
        getattr(writer, f"add_{kind}")(f"a.{kind}", value)
    writer.add_array("numbers", [1, -2, 3])
    writer.add_custom_alignment(64)
    weights = np.arange(96, dtype=np.float32).reshape(3, 32)
    writer.add_tensor("half", weights.astype(np.float16))
    kind = oracle.GGMLQuantizationType.Q4_1
    writer.add_tensor("few bits", oracle.quants.quantize(weights, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = gguf_file.read(path)
    assert {k: file.metadata[f"a.{k}"] for k in values} == values
    assert file.metadata["numbers"] == [1, -2, 3]
    assert np.array_equal(file.tensor("half"), weights)
    assert file.tensors["few bits"].shape == (3, 32)
    assert np.allclose(file.tensor("few bits"), weights, atol=31 / 15)


@each_shape
def test_a_model_comes_back_as_it_was(shape: str, tmp_path: Path) -> None:
    given = trained(shape)
    gguf.write(given, tmp_path, "F32")
    path = next(tmp_path.glob("*.gguf"))
    model, tokenizer = gguf_model.read(path)
    ours, theirs = (dict(m.named_parameters()) for m in (given.model, model))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert tokenizer.to_json() == from_json(given.tokenizer.to_json(), "").to_json()
    idx = torch.arange(20)[None]
    assert torch.allclose(model.eval()(idx)[0], given.model(idx)[0], atol=2e-3)  # of GELU
    before = path.read_bytes()
    gguf_model.write(path, model, tokenizer, "F32")
    assert path.read_bytes() == before


def test_rows_that_are_no_whole_blocks_are_not_quantised(tmp_path: Path) -> None:
    path = written(tmp_path, dtype="Q4_0", n_embd=48, mlp_dim=64)
    formats = {n: t.dtype for n, t in gguf_file.read(path).tensors.items()}
    assert formats["blk.0.attn_q.weight"] == "F16"  # 48 wide
    assert formats["blk.0.ffn_down.weight"] == "Q4_0"  # 64 wide
    assert formats["blk.0.attn_norm.weight"] == "F32"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e5])
def test_weights_that_the_format_cannot_hold_are_refused(value: float, tmp_path: Path) -> None:
    given = trained("qwen3")
    given.model.transformer["h"][1].attn.c_attn.weight.data[0, 0] = value
    with pytest.raises(CheckpointError, match=r"blk\.1\.attn_q\.weight"):
        gguf.write(given, tmp_path, "F16")


# tokenizers ---------------------------------------------------------------------------------------


def own_bpe() -> Tokenizer:
    return from_json(train(some_text(5000) + "Now, now: 1234 y'all!", 280), "")


@pytest.mark.parametrize("make", [ByteTokenizer, own_bpe, lambda: CharTokenizer(ALPHABET)])
def test_tokenizers_come_back(make: Callable[[], Tokenizer]) -> None:
    tokenizer = make()
    metadata = gguf_vocab.to_metadata(tokenizer, tokenizer.vocab_size + 3)
    back = from_json(gguf_vocab.from_metadata(metadata, "a"), "a")
    assert back.to_json() == tokenizer.to_json()
    assert len(set(metadata["tokenizer.ggml.tokens"])) == tokenizer.vocab_size + 3
    if tokenizer.kind == "bpe":  # from what llama.cpp reads, as in the files of others
        del metadata[gguf_vocab.DOCUMENT]
        back = from_json(gguf_vocab.from_metadata(metadata, "a"), "a")
        text = some_text(300, seed=1) + " It's 20 to 1!\n\n  é"
        assert back.encode(text).tolist() == tokenizer.encode(text).tolist()
        assert back.end_of_text == tokenizer.end_of_text


@pytest.mark.parametrize(("key", "value"), [("model", "llama"), ("pre", "viking"), ("pre", ["x"])])
def test_tokenizers_that_are_not_known_are_named(key: str, value: object) -> None:
    metadata = gguf_vocab.to_metadata(own_bpe(), 300)
    del metadata[gguf_vocab.DOCUMENT]
    metadata[f"tokenizer.ggml.{key}"] = value
    with pytest.raises(CheckpointError, match=re.escape(f"tokenizer.ggml.{key}={value}")):
        gguf_vocab.from_metadata(metadata, "a")


# llama.cpp ----------------------------------------------------------------------------------------


def check(given: Trained, folder: Path, dtype: str) -> Comparison:
    gguf.write(given, folder, dtype)
    compared = gguf.verify(given, folder, dtype)
    assert isinstance(compared, Comparison)
    compared.check()
    return compared


@needs_llamacpp
@each_shape
def test_llamacpp_computes_the_same(shape: str, tmp_path: Path) -> None:
    compared = check(trained(shape), tmp_path, "F32")
    assert compared.greedy_wanted == 50
    if not shape.startswith("gpt2"):  # whose GELU is a table
        assert compared.max_difference < 2e-5


@needs_llamacpp
@pytest.mark.parametrize("dtype", gguf.DTYPES)
@pytest.mark.parametrize("shape", ["gpt2 without biases", "llama, tied"])
def test_llamacpp_runs_every_dtype(shape: str, dtype: str, tmp_path: Path) -> None:
    check(trained(shape), tmp_path, dtype)
    text = (tmp_path / "Modelfile").read_text(encoding="utf-8")
    assert (
        text
        == f'''FROM ./a-run-{dtype}.gguf
TEMPLATE """{{{{ .Prompt }}}}"""
PARAMETER temperature 0.8
PARAMETER top_k 200
PARAMETER top_p 1.0
PARAMETER min_p 0.0
PARAMETER repeat_penalty 1.0
PARAMETER num_predict 500
PARAMETER num_ctx 80
'''
    )


@needs_llamacpp
@pytest.mark.parametrize(
    "tokenizer",
    [
        ByteTokenizer(),
        own_bpe(),
        CharTokenizer("ab "),
        CharTokenizer("ab é", unknown=True),
        CharTokenizer("ab é", unknown=True, ends=True),
    ],
    ids=["byte", "bpe", "three characters", "unknown character", "end of text"],
)
def test_llamacpp_tokenizes_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    check(trained("llama, tied", tokenizer), tmp_path, "F32")


@needs_llamacpp
def test_llamacpp_takes_a_vocabulary_with_spare_rows(tmp_path: Path) -> None:
    check(trained("llama, tied", vocab_size=64), tmp_path, "F32")


@needs_llamacpp
def test_an_export_that_computes_something_else_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_model, "interleave", lambda rows, size, back=False: rows)
    given = trained("llama, grouped queries")
    gguf.write(given, tmp_path, "F32")
    compared = gguf.verify(given, tmp_path, "F32")
    with pytest.raises(CheckpointError, match="other logits"):
        compared.check()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with one checkpoint."""
    given = trained("llama, grouped queries")
    saved = checkpoint.save(tmp_path / "run", given.model, [], given.tokenizer, a_state(1))
    run_folder.set_pointer(tmp_path / "run", "last", saved)
    return tmp_path / "run"


@needs_llamacpp
def test_a_run_is_exported_and_comes_back(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, back = tmp_path / "out", tmp_path / "back"
    options = ["--format", "gguf", "--dtype", "F32", "--json"]
    assert cli.main(["export", str(run), str(out), *options]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["greedy"] == 50
    assert "logits differ by at most" in said.err and "50 of 50 greedy tokens equal" in said.err
    assert {file.name for file in out.iterdir()} == {"run-F32.gguf", "Modelfile"}
    assert cli.main(["import", str(out / "run-F32.gguf"), str(back)]) == 0
    ours, theirs = (checkpoint.load(run_folder.find(folder))[0] for folder in (run, back))
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))


@needs_llamacpp
def test_an_export_that_fails_leaves_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_model, "interleave", lambda rows, size, back=False: rows)
    assert cli.main(["export", str(run), str(tmp_path / "out"), "--format", "gguf"]) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


def test_without_llamacpp_an_export_says_how_to_compare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf, "has", lambda name: False)
    given = trained("qwen3")
    gguf.write(given, tmp_path, "F32")
    assert "pip install 'bardlet[gguf]'" in str(gguf.verify(given, tmp_path, "F32"))


def test_a_file_of_other_weights_is_noticed(tmp_path: Path) -> None:
    given = trained("qwen3")
    gguf.write(given, tmp_path, "Q8_0")
    given.model.lm_head.weight.data.mul_(1.1)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight"):
        gguf.verify(given, tmp_path, "Q8_0")


@needs_llamacpp
def test_what_llamacpp_cannot_load_is_said(tmp_path: Path) -> None:
    path = rewritten(written(tmp_path), lambda keys, tensors: tensors.pop("output_norm.weight"))
    with pytest.raises(llamacpp.LlamaCppError, match=r"output_norm\.weight"):
        llamacpp.ask(path, text="", prompt=[0], count=1)


@needs_llamacpp
def test_what_ends_llamacpp_is_said_and_not_where_a_debugger_stood(tmp_path: Path) -> None:
    file = gguf_file.read(written(tmp_path))
    metadata = {**file.metadata, "tokenizer.ggml.tokens": ["a"] * 3}
    tensors = {name: ("F32", file.tensor(name)) for name in file.tensors}
    gguf_file.write(tmp_path / "twice.gguf", metadata, tensors)
    with pytest.raises(llamacpp.LlamaCppError, match=r"^GGML_ASSERT\(id_to_token.*\) failed$"):
        llamacpp.ask(tmp_path / "twice.gguf", text="", prompt=[0], count=1)
    with pytest.raises(llamacpp.LlamaCppError, match="invalid tokens"):
        llamacpp.ask(written(tmp_path), text="", prompt=[1 << 20], count=1)


@pytest.mark.parametrize(
    ("stderr", "code", "words"),
    [
        ("", -9, "it was ended by SIGKILL"),
        ("", 3, "it ended with exit code 3"),
        ("a\nterminate called\n  what():  no room\n58\t../x.h: No such file\n", -6, "no room"),
        ("x/common.cpp:22: add: no token 0\n58\t../x.h: No such file\n", -6, "add: no token 0"),
        ("0.0 E llama: cannot open\nTraceback\nRuntimeError: x\n", 1, "cannot open"),
        ("Traceback\n  File x\nurllib.error.URLError: refused\n", 1, "URLError: refused"),
        ("360\t../csu/libc-start.c: No such file or directory.\n", -6, "it was ended by SIGABRT"),
    ],
)
def test_the_line_that_says_why(stderr: str, code: int, words: str) -> None:
    assert llamacpp.cause(stderr, code) == words


# files that lie -----------------------------------------------------------------------------------


def refuse(path: Path, match: str) -> None:
    with pytest.raises(BardletError, match=match):
        gguf_model.read(path)


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    path = written(tmp_path)
    whole = path.read_bytes()
    size = len(whole)
    for length in [0, 3, 4, 10, 23, 24, 30, *range(100, size, size // 40), size - 40]:
        path.write_bytes(whole[:length])
        refuse(path, "cannot read .* as GGUF")


@pytest.mark.parametrize("at", [8, 16, 24])  # counts of tensors and keys, length of the first key
@pytest.mark.parametrize("count", [1 << 20, 1 << 40, (1 << 64) - 1])
def test_absurd_counts_are_refused(at: int, count: int, tmp_path: Path) -> None:
    path = written(tmp_path)
    raw = bytearray(path.read_bytes())
    raw[at : at + 8] = struct.pack("<Q", count)
    path.write_bytes(raw)
    refuse(path, "cannot read .* as GGUF")


def test_an_absurd_list_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    raw = bytearray(path.read_bytes())
    at = raw.index(b"tokenizer.ggml.token_type") + 25 + 8  # after the key and the two types
    raw[at : at + 8] = struct.pack("<Q", 1 << 50)
    path.write_bytes(raw)
    refuse(path, "numbers do not fit")


def header(
    *infos: tuple[str, tuple[int, ...], str], version: int = 3, **keys: int | float | str | bytes
) -> bytes:
    """A file of tensors' names, shapes and formats, and of room for a few weights.

    A key's value is written with its type, or as the bytes that are given.
    """
    raw = b"GGUF" + struct.pack("<IQQ", version, len(infos), len(keys))
    for key, value in keys.items():
        given = value if isinstance(value, bytes) else b"".join(gguf_file.typed(value))
        raw += gguf_file.text(f"general.{key}") + given
    for name, shape, dtype in infos:
        raw += gguf_file.text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        raw += struct.pack("<IQ", gguf_quant.QUANT_TYPES[dtype].id, 0)
    return raw + bytes(4096)


A = ("a", (32,), "F32")
HEADERS = {
    "another format": (header(A).replace(b"GGUF", b"GGML"), "does not begin with GGUF"),
    "a value of no type": (header(A, x=struct.pack("<I", 99)), "a value of unknown type 99"),
    "a list of lists": (header(A, x=struct.pack("<IIQ", 9, 9, 1)), "a list of values of type 9"),
    "an older version": (header(A, version=1), "version 1 of the format"),
    "a newer version": (header(A, version=4), "version 4 of the format"),
    "alignment of nothing": (header(A, alignment=0), "general.alignment=0 is not a power"),
    "odd alignment": (header(A, alignment=24), "general.alignment=24 is not a power"),
    "alignment in words": (header(A, alignment="32"), "general.alignment=32 is not a power"),
    "broken alignment": (header(A, alignment=32.0), "general.alignment=32.0 is not a power"),
    "a tensor twice": (header(A, A), "tensor 'a' is there twice"),
    "no dimension": (header(("a", (), "F32")), "or has 0 dimensions"),
    "five dimensions": (header(("a", (1, 1, 1, 1, 1), "F32")), "or has 5 dimensions"),
    "half a block": (header(("a", (16,), "Q4_0")), r"tensor 'a' of shape \(16,\) reaches past"),
    "nothing": (header(("a", (0,), "F32")), r"tensor 'a' of shape \(0,\) reaches past"),
    "more than there is": (header(("a", (1 << 40,), "F32")), "reaches past its end"),
}  # fmt: skip


@pytest.mark.parametrize("lie", HEADERS)
def test_a_header_that_cannot_be_is_refused(lie: str, tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(header(A))
    assert gguf_file.read(tmp_path / "a.gguf").tensor("a").tolist() == [0] * 32, "sound but for it"
    raw, problem = HEADERS[lie]
    (tmp_path / "a.gguf").write_bytes(raw)
    with pytest.raises(CheckpointError, match=problem):
        gguf_file.read(tmp_path / "a.gguf")


@pytest.mark.parametrize("flips", range(30))
def test_damage_anywhere_ends_in_an_error_or_a_model(flips: int, tmp_path: Path) -> None:
    path = written(tmp_path, "llama, tied", "Q4_0")
    raw = bytearray(path.read_bytes())
    generator = np.random.default_rng(flips)
    for at in generator.integers(0, 6000, size=4):  # the keys and the tensors' names
        raw[at] = generator.integers(256)
    path.write_bytes(raw)
    try:
        model, _ = gguf_model.read(path)
    except BardletError:
        return
    assert isinstance(model, GPT)


LIES: dict[str, tuple[Callable[[dict[str, Any], dict[str, Any]], object], str]] = {
    "architecture": (lambda k, t: k.update({"general.architecture": "mamba"}), "'mamba'"),
    "no architecture": (lambda k, t: k.pop("general.architecture"), "None"),
    "no size": (lambda k, t: k.pop("qwen3.block_count"), "block_count=None"),
    "layers": (lambda k, t: k.update({"qwen3.block_count": 1 << 20}), "n_layer"),
    "positions": (lambda k, t: k.update({"qwen3.context_length": (1 << 32) - 1}), "context_length"),
    "heads": (lambda k, t: k.update({"qwen3.attention.head_count": 5}), "n_kv_head"),
    "text for a number": (lambda k, t: k.update({"qwen3.embedding_length": "32"}), "embedding"),
    "width": (lambda k, t: k.update({"qwen3.embedding_length": 64}), "of another shape"),
    "vast": (lambda k, t: k.update({"qwen3.attention.key_length": 1 << 20,
                                    "qwen3.attention.value_length": 1 << 20,
                                    "qwen3.rope.dimension_count": 1 << 20}), "of another shape"),
    "rope scaling": (lambda k, t: k.update({"qwen3.rope.scaling.type": "yarn"}),
                     "qwen3.rope.scaling.type=yarn"),
    "experts": (lambda k, t: k.update({"qwen3.expert_count": 8}), "qwen3.expert_count=8"),
    "partial rope": (lambda k, t: k.update({"qwen3.rope.dimension_count": 4}), "dimension_count=4"),
    "missing": (lambda k, t: t.pop("blk.1.ffn_up.weight"), r"missing: blk\.1\.ffn_up\.weight"),
    "unknown": (lambda k, t: t.update({"rope_freqs.weight": np.ones(4, np.float32)}),
                r"unexpected: rope_freqs\.weight"),
    "shape": (lambda k, t: t.update({"blk.0.ffn_up.weight": np.ones((3, 32), np.float32)}),
              r"blk\.0\.ffn_up\.weight \(3, 32\)"),
    "no embedding": (lambda k, t: t.pop("token_embd.weight"), "token_embd"),
    "rows": (lambda k, t: k.update({"bardlet.vocab_size": 1 << 30}), "bardlet.vocab_size"),
    "few rows": (lambda k, t: k.update({"bardlet.vocab_size": 3}), "tokens"),
    "tokenizer": (lambda k, t: k.update({gguf_vocab.DOCUMENT: "{}"}), "damaged"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_keys_and_tensors_that_lie_are_refused_by_name(lie: str, tmp_path: Path) -> None:
    change, match = LIES[lie]
    refuse(rewritten(written(tmp_path), change), match)


def test_an_untied_head_of_gpt2_is_refused(tmp_path: Path) -> None:
    def untie(keys: dict[str, Any], tensors: dict[str, Any]) -> None:
        tensors["output.weight"] = tensors["token_embd.weight"] * 2

    refuse(rewritten(written(tmp_path, "gpt2"), untie), r"output\.weight differs")


def test_number_formats_that_are_not_read_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    writer = oracle.GGUFWriter(path, "llama")
    kind = oracle.GGMLQuantizationType.Q5_0
    rows = np.ones((2, 32), np.float32)
    writer.add_tensor("a", oracle.quants.quantize(rows, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    refuse(path, "dtype 6, which is not one of F32, F16")

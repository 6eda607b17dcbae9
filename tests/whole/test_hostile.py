"""Folders and files that someone sent: pickles, headers and JSON that lie are refused by name.

Each case is made into a checkpoint or dataset that is else sound, with its checksums made anew, so
that nothing but the check in question stands between it and the commands that read it.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytest import MonkeyPatch
from support import CHECKPOINT, DATA, READERS, RESUME, Refused

from bardlet import cli
from bardlet.run import checkpoint, run_folder, weights

pytestmark = pytest.mark.usefixtures("sent")


class Bomb:
    """What unpickles to a new folder `boom`."""

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, ("boom",))


def plain_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"model": Bomb()}))


def torch_zip(path: Path) -> None:
    torch.save({"model": Bomb(), "weights": torch.zeros(2)}, path)


def torch_legacy(path: Path) -> None:
    torch.save({"model": Bomb()}, path, _use_new_zipfile_serialization=False)


each_pickle = pytest.mark.parametrize("write", [plain_pickle, torch_zip, torch_legacy])


def test_the_bomb_goes_off_where_a_pickle_is_loaded() -> None:
    plain_pickle(Path("ckpt.pt"))
    pickle.loads(Path("ckpt.pt").read_bytes())
    assert Path("boom").is_dir()


@each_pickle
@pytest.mark.parametrize("name", checkpoint.FILES)
def test_a_pickle_disguised_as_a_file_of_a_checkpoint(
    name: str, write: Callable[[Path], None], refused: Refused
) -> None:
    write(CHECKPOINT / name)
    run_folder.write_checksums(CHECKPOINT, checkpoint.FILES)
    for reader, command in READERS.items():
        if name != checkpoint.OPTIMIZER or reader == "resume":
            assert name in refused(*command)
    assert not Path("boom").exists()


@each_pickle
def test_nanogpts_checkpoint_given_as_a_run(
    write: Callable[[Path], None], refused: Refused
) -> None:
    Path("out/nano").mkdir()
    write(Path("out/nano/ckpt.pt"))
    for path in ("out/nano/ckpt.pt", "out/nano"):
        assert path in refused("sample", path)
        assert path in refused("eval", path)
        assert path in refused("inspect", path)
        assert path in refused("train", "--resume", f"--out_dir={path}")
    assert not Path("boom").exists()


@each_pickle
def test_a_pickle_in_a_data_folder(write: Callable[[Path], None], refused: Refused) -> None:
    write(DATA / "meta.pkl")
    assert cli.main(["inspect", str(DATA)]) == 0, "ours needs none"
    Path("data/nano").mkdir()
    for split in ("train", "val"):
        Path(f"data/nano/{split}.bin").write_bytes(bytes(64))
    write(Path("data/nano/meta.pkl"))
    assert "meta.pkl" in refused("train", "demo", "--dataset=nano")
    write(DATA / "tokenizer.json")
    assert "tokenizer.json" in refused("inspect", str(DATA))
    write(DATA / "manifest.json")
    assert "manifest.json" in refused("inspect", str(DATA))
    assert not Path("boom").exists()


@each_pickle
@pytest.mark.parametrize("name", ["x.toml", "x.py"])
def test_a_pickle_given_as_options(
    name: str, write: Callable[[Path], None], refused: Refused
) -> None:
    write(Path(name))
    assert name in refused("train", name)
    assert not Path("boom").exists()


def header_of(path: Path) -> tuple[dict[str, Any], bytes]:
    raw = path.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8 : 8 + size]), raw[8 + size :]


def forge(path: Path, header: dict[str, Any] | bytes, body: bytes, size: int = -1) -> None:
    """Write a safetensors file whose header, and its length, are as given."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = struct.pack("<Q", len(raw) if size < 0 else size)
    path.write_bytes(length + raw + body)
    run_folder.write_checksums(CHECKPOINT, checkpoint.FILES)


NORM, HEAD = "transformer.ln_f.weight", "lm_head.weight"
LIES = {
    "overlapping": lambda h: h[NORM].update(data_offsets=h[HEAD]["data_offsets"]),
    "overlapping by one": lambda h: h[NORM]["data_offsets"].__setitem__(
        0, h[NORM]["data_offsets"][0] - 1
    ),
    "out of range": lambda h: h[NORM].update(data_offsets=[1 << 40, (1 << 40) + 256]),
    "backwards": lambda h: h[NORM].update(data_offsets=h[NORM]["data_offsets"][::-1]),
    "negative offsets": lambda h: h[NORM].update(data_offsets=[-256, 0]),
    "wider dtype": lambda h: h[NORM].update(dtype="F64"),
    "integers": lambda h: h[NORM].update(dtype="I32"),
    "bytes": lambda h: h[NORM].update(dtype="U8", shape=[256]),
    "unknown dtype": lambda h: h[NORM].update(dtype="PICKLE"),
    "negative shape": lambda h: h[NORM].update(shape=[-8, -8]),
    "two dimensions for one": lambda h: h[NORM].update(shape=[8, 8]),
    "overflowing shape": lambda h: h[NORM].update(shape=[1 << 32, 1 << 32, 64]),
    "empty shape of huge sides": lambda h: h[NORM].update(shape=[1 << 62, 0], data_offsets=[0, 0]),
    "one name less": lambda h: h.pop(NORM),
    "one name more": lambda h: h.update({"a": {**h[NORM], "shape": [0], "data_offsets": [0, 0]}}),
    "no tensors": lambda h: h.clear(),
    "a deep shape": lambda h: h[NORM].update(shape=[[[64]]]),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_safetensors_header_that_lies(lie: str, refused: Refused) -> None:
    path = CHECKPOINT / "model.safetensors"
    header, body = header_of(path)
    forge(path, header, body)
    assert cli.main(READERS["sample"]) == 0, "the forgery itself is sound"
    LIES[lie](header)
    forge(path, header, body)
    for command in READERS.values():
        assert "model.safetensors" in refused(*command)


def test_a_safetensors_length_that_lies(refused: Refused) -> None:
    path = CHECKPOINT / "model.safetensors"
    header, body = header_of(path)
    for size in (0, 1, len(json.dumps(header)) - 1, len(body) * 2, 1 << 31, (1 << 63) + 1):
        forge(path, header, body, size)
        assert "model.safetensors" in refused(*READERS["sample"])
    for raw in (b"", b"{", b"[" * 100_000, b'{"a":' * 100_000, b"\xff" * 100):
        forge(path, raw, body)
        assert "model.safetensors" in refused(*READERS["sample"])


def test_a_safetensors_name_that_is_there_twice(refused: Refused) -> None:
    path = CHECKPOINT / "model.safetensors"
    header, body = header_of(path)
    again = {"dtype": "F32", "shape": [64], "data_offsets": [len(body), len(body) + 256]}
    raw = json.dumps(header)[:-1] + f', "{NORM}": {json.dumps(again)}}}'
    forge(path, raw.encode(), body + bytes(256))
    assert "model.safetensors" in refused(*READERS["sample"])


@pytest.mark.parametrize("what", ["momentum", "exp_avg", "exp_avg_sq", "step"])
def test_an_optimizers_state_of_another_shape(what: str, refused: Refused) -> None:
    """The compiled core writes to the address of a momentum, as many values as the weight has."""
    path = CHECKPOINT / checkpoint.OPTIMIZER
    tensors = weights.read_tensors(path)
    name = next(name for name in tensors if name.endswith(f"/{what}"))
    for value in (torch.zeros(1), torch.zeros(*tensors[name].shape, 2), None):
        changed = {n: t for n, t in tensors.items() if n != name or value is not None}
        if value is not None:
            changed[name] = value
        checkpoint.save_file(changed, path)
        run_folder.write_checksums(CHECKPOINT, checkpoint.FILES)
        assert checkpoint.OPTIMIZER in refused(*RESUME)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("core", ["1", "0"])
def test_weights_that_are_no_numbers_are_said_and_harmless(
    value: float, core: str, monkeypatch: MonkeyPatch
) -> None:
    monkeypatch.setattr(weights.warnings, "warn", lambda text, **_: said.append(text))
    if core == "0":
        monkeypatch.setattr("bardlet.native.library", lambda: None)
    said: list[str] = []
    path = CHECKPOINT / "model.safetensors"
    tensors = weights.read_tensors(path)
    tensors["transformer.wte.weight"].fill_(value)
    checkpoint.save_file(tensors, path)
    run_folder.write_checksums(CHECKPOINT, checkpoint.FILES)
    for temperature in ("0", "0.8"):
        assert cli.main([*READERS["sample"], f"--temperature={temperature}"]) == 0
    assert "model.safetensors: transformer.wte.weight has values that are not finite" in said[0]


ABSURD = [
    {"n_layer": 10**9}, {"n_layer": 10**18}, {"n_layer": 3}, {"n_layer": 1}, {"n_embd": 10**7},
    {"n_embd": 1 << 40}, {"vocab_size": 10**12}, {"vocab_size": 0}, {"mlp_dim": 10**12},
    {"block_size": 10**12}, {"block_size": 1 << 30}, {"head_dim": 1 << 30}, {"n_head": 1 << 40},
    {"n_kv_head": 0}, {"n_layer": -1}, {"n_embd": 0}, {"n_head": 0}, {"n_layer": 2.5},
    {"n_layer": None}, {"n_layer": [2]}, {"n_layer": "two"}, {"n_layer": True}, {"family": "rnn"},
    {"family": 7}, {"dropout": 1e308}, {"norm_eps": "nan"}, {"rope_theta": 0}, {"qk_norm": 3},
    {"n_head": 64}, {"tie_embeddings": True}, {"n_embd": 1 << 63},
]  # fmt: skip


@pytest.mark.parametrize("change", ABSURD, ids=str)
def test_a_model_too_large_for_its_weights_takes_no_memory(
    change: dict[str, Any], refused: Refused, monkeypatch: MonkeyPatch
) -> None:
    path = CHECKPOINT / "config.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**document, **change}), encoding="utf-8")
    run_folder.write_checksums(CHECKPOINT, checkpoint.FILES)
    model = weights.GPT

    def in_no_memory(config: Any) -> Any:
        assert torch.get_default_device().type == "meta", "a model was built"
        return model(config)

    monkeypatch.setattr(weights, "GPT", in_no_memory)
    for command in (READERS["sample"], READERS["inspect"]):
        line = refused(*command)
        assert "config.json" in line
        assert "damaged" in line

"""ONNX graphs, run by onnxruntime."""

from __future__ import annotations

import copy
import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import a_state, tiny_model

from bardlet.data.tokenizers.char import CharTokenizer
from bardlet.errors import CheckpointError, UsageError
from bardlet.interop import onnx
from bardlet.interop.verify import Comparison, Trained
from bardlet.system import optional_deps

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")
SHAPES: list[tuple[str, dict[str, Any]]] = [
    ("gpt2", {"bias": False}),
    ("llama", {}),
    ("llama", {"tie_embeddings": True, "qk_norm": False, "block_size": 1}),
]


def exported(folder: Path, family: str, **changes: Any) -> Trained:
    tokenizer = CharTokenizer("\n abcdé")
    model = tiny_model(family, vocab_size=tokenizer.vocab_size, **changes).eval()
    trained = Trained(name="a", model=model, tokenizer=tokenizer, state=a_state())
    onnx.write(trained, folder, "float32")
    return trained


Export = Callable[[int, Path], Trained]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Puts the export of a shape into a folder; each is made once, which takes seconds."""

    @functools.cache
    def made(shape: int) -> tuple[Trained, Path]:
        folder = tmp_path_factory.mktemp("onnx")
        family, changes = SHAPES[shape]
        return exported(folder, family, **changes), folder

    def copied(shape: int, to: Path) -> Trained:
        trained, folder = made(shape)
        shutil.copytree(folder, to, dirs_exist_ok=True)
        return trained

    return copied


@pytest.mark.parametrize(("family", "changes"), SHAPES)
def test_onnxruntime_computes_the_same(
    family: str, changes: dict[str, Any], tmp_path: Path, export: Export
) -> None:
    trained = export(SHAPES.index((family, changes)), tmp_path)
    compared = onnx.verify(trained, tmp_path, "float32")
    assert isinstance(compared, Comparison)
    compared.check()
    assert compared.max_difference < 1e-5
    assert {file.name for file in tmp_path.iterdir()} == {"model.onnx", "tokenizer.json"}
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    size = trained.model.config.block_size
    for shape in [(1, 1), (1, size), (5, max(1, size // 2))]:
        idx = np.random.default_rng(0).integers(trained.tokenizer.vocab_size, size=shape)
        (logits,) = session.run(None, {"idx": idx})
        ids = torch.from_numpy(idx)
        with torch.no_grad():
            assert np.allclose(logits, trained.model(ids, ids)[0], atol=1e-5)


def test_what_is_not_installed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optional_deps, "has", lambda name: False)
    with pytest.raises(UsageError, match=r"onnxscript.*pip install 'bardlet\[onnx\]'"):
        exported(tmp_path, "gpt2")


def test_a_graph_of_other_weights_is_noticed(tmp_path: Path, export: Export) -> None:
    trained = copy.deepcopy(export(0, tmp_path))
    trained.model.transformer["ln_f"].weight.data.mul_(1.01)
    compared = onnx.verify(trained, tmp_path, "float32")
    assert isinstance(compared, Comparison)
    with pytest.raises(CheckpointError, match="other logits"):
        compared.check()
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(CheckpointError, match="cannot read the export"):
        onnx.verify(trained, tmp_path, "float32")

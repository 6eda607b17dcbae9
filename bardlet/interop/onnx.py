"""Out to ONNX: one graph from token ids to logits, for any batch and any length up to the context.

It has no KV cache: a token costs a pass over all before it. The cache of `model.py` is written in
place, which a graph cannot do; one that takes and returns it would be a second forward pass.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from bardlet.errors import CheckpointError
from bardlet.interop.verify import Comparison, Trained, compare
from bardlet.model import GPT
from bardlet.run.checkpoint import write_text
from bardlet.system.optional_deps import has, need, reason

DTYPES = ("float32",)
FILE = "model.onnx"
OPSET = 20  # the first in which GELU is one operator
MAX_FILE_BYTES = 1 << 30  # bytes of weights; more stand beside the graph, as protobuf ends at 2 GB


class Logits(nn.Module):
    """A model as a function of token ids alone: (B, T) int64 -> (B, T, V) float32."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(self, idx: Tensor) -> Tensor:
        return self.model(idx, idx)[0]  # with targets, for the logits of all positions


def write(trained: Trained, folder: Path, dtype: str) -> None:
    """Write the graph, with its weights, and tokenizer.json into `folder`."""
    need("onnxscript", "onnx", "exporting to ONNX")
    model = trained.model
    size = model.config.block_size
    dim = torch.export.Dim
    length = dim("length", min=1, max=size) if size > 1 else dim.STATIC
    example = torch.zeros(2, min(2, size), dtype=torch.int64)  # ones would be taken for constants
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    with quiet():
        torch.onnx.export(
            Logits(model), (example,), folder / FILE, dynamo=True, verbose=False,
            opset_version=OPSET, input_names=["idx"], output_names=["logits"],
            dynamic_shapes={"idx": {0: dim("batch"), 1: length}},
            external_data=weights > MAX_FILE_BYTES,
        )  # fmt: skip
    write_text(folder / "tokenizer.json", trained.tokenizer.to_json())


def next_steps(trained: Trained, folder: Path, dtype: str) -> list[str]:
    """None: programs differ in how they take a graph."""
    return []


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporter, without its advice about parts of torch and about torchvision."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def verify(trained: Trained, folder: Path, dtype: str) -> Comparison | str:
    """Compare with what onnxruntime makes of the graph, at several lengths and batches."""
    if not has("onnxruntime"):
        return "onnxruntime is not installed (pip install 'bardlet[onnx]')"
    runtime = need("onnxruntime", "onnx", "comparing with onnxruntime")
    try:
        session = runtime.InferenceSession(folder / FILE, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own classes have no common parent
        raise CheckpointError(f"onnxruntime cannot read the export: {reason(error)}") from None

    def theirs(idx: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["logits"], {"idx": idx.numpy()})[0])

    compared = compare(trained, f"onnxruntime {runtime.__version__}", theirs)
    config = trained.model.config
    idx = torch.randint(config.vocab_size, (3, max(1, config.block_size - 1)),
                        generator=torch.Generator().manual_seed(1))  # fmt: skip
    alone = torch.cat([theirs(row[None]) for row in idx])
    if not torch.allclose(theirs(idx), alone, rtol=0, atol=compared.tolerance):
        raise CheckpointError("the export gives a batch other logits than each text alone")
    return compared

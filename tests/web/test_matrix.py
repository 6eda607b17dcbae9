"""Products of matrices and vectors in the browser, by SIMD and without, against numpy's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from engine_page import binary, engine_page
from support import tiny_model

from bardlet.errors import CheckpointError
from bardlet.interop.html.weights import encoded, packed

SHAPES = [(1, 1), (3, 5), (4, 8), (65, 30), (352, 128), (7, 1537)]
PRODUCT = """([table, raw, x, simd]) => {
  const tensor = lab.readTensors([table], lab.bytes(raw)).get("w");
  const arena = new lab.Arena(lab.Matrix.sizeOf(tensor, simd) + 80000, simd);
  const matrix = new lab.Matrix(arena, tensor);
  const [from, to, row] = [tensor.cols, tensor.rows, tensor.cols].map((n) => arena.vector(n));
  arena.view(from, x.length).set(x);
  matrix.apply(from, to);
  matrix.copyRow(tensor.rows - 1, row);
  const behind = arena.view(to + 4 * tensor.rows, 4 - (tensor.rows % 4 || 4));
  return {
    simd: arena.simd !== null, bytes: matrix.quantized, behind: [...behind],
    y: [...arena.view(to, tensor.rows)], row: [...arena.view(row, tensor.cols)],
  };
}"""


@pytest.fixture(scope="module")
def tab(browser: Any) -> Iterator[Any]:
    with engine_page(browser) as one:
        yield one


@pytest.mark.parametrize("simd", [True, False], ids=["simd", "plain"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_products_are_numpys(tab: Any, dtype: str, simd: bool) -> None:
    generator = np.random.default_rng(0)
    for rows, cols in SHAPES:
        w = generator.normal(size=(rows, cols)).astype(np.float32)
        x = generator.normal(size=cols).astype(np.float32)
        raw, stored = encoded(w, dtype)
        table = {"name": "w", "rows": rows, "cols": cols, "dtype": dtype}
        told = tab.evaluate(PRODUCT, [table, binary(raw), x.tolist(), simd])
        assert (told["simd"], told["bytes"]) == (simd, simd and dtype == "int8")
        assert told["row"] == pytest.approx(stored[-1].tolist(), rel=1e-7)
        exact = stored.astype(np.float64) @ x.astype(np.float64)
        # a vector of 16 bits is off by half a step of its largest number in each place
        step = np.abs(x).max() / (22_000 if cols > 1000 else 32_767) if told["bytes"] else 0
        bound = 1e-6 * (np.abs(stored) @ np.abs(x)) + np.abs(stored).sum(1) * step / 2
        assert np.all(np.abs(np.array(told["y"]) - exact) <= bound + 1e-12)
        assert set(told["behind"]) <= {0}


def test_a_vector_of_zeros_and_rows_of_zeros_give_zeros(tab: Any) -> None:
    raw, stored = encoded(np.zeros((5, 9), dtype=np.float32), "int8")
    assert not stored.any()
    table = {"name": "w", "rows": 5, "cols": 9, "dtype": "int8"}
    assert tab.evaluate(PRODUCT, [table, binary(raw), [0.0] * 9, True])["y"] == [0] * 5
    assert tab.evaluate(PRODUCT, [table, binary(raw), [1.0] * 9, True])["y"] == [0] * 5


def test_the_largest_bytes_do_not_overflow(tab: Any) -> None:
    rows, cols = 4, 3072
    raw, _ = encoded(np.ones((rows, cols), dtype=np.float32), "int8")
    table = {"name": "w", "rows": rows, "cols": cols, "dtype": "int8"}
    told = tab.evaluate(PRODUCT, [table, binary(raw), [2.0] * cols, True])
    assert told["y"] == pytest.approx([2.0 * cols] * rows, rel=1e-4)


def test_every_float16_is_numpys(tab: Any) -> None:
    halves = np.arange(65536, dtype=np.uint16).view(np.float16)
    raw, exact = encoded(halves.astype(np.float32)[None], "float16")
    read = """([raw]) => {
      const table = [{ name: "w", rows: 1, cols: 65536, dtype: "float16" }];
      const { values } = lab.readTensors(table, lab.bytes(raw)).get("w").read();
      return Array.from(new Uint32Array(values.buffer));
    }"""
    told = np.array(tab.evaluate(read, [binary(raw)]), dtype=np.uint32).view(np.float32)
    assert np.array_equal(told, exact[0], equal_nan=True)
    assert np.array_equal(told, halves.astype(np.float32), equal_nan=True)


@pytest.mark.parametrize("change", [-1, 1])
def test_weights_of_another_length_are_refused(tab: Any, change: int) -> None:
    table = [{"name": "w", "rows": 2, "cols": 3, "dtype": "float32"}]
    read = "([table, raw]) => lab.readTensors(table, lab.bytes(raw))"
    with pytest.raises(Exception, match="This file is damaged"):
        tab.evaluate(read, [table, binary(bytes(24 + change))])


def test_more_memory_than_there_is_is_said(tab: Any) -> None:
    for simd in ("true", "false"):
        with pytest.raises(Exception, match="needs 40000000 MB of memory"):
            tab.evaluate(f"() => new lab.Arena(4e13, {simd})")


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_weights_that_are_not_finite_are_refused(dtype: str) -> None:
    model = tiny_model("gpt2")
    with torch.no_grad():
        model.lm_head.weight[3, 4] = float("nan")
    with pytest.raises(CheckpointError, match="not finite"):
        packed(model, dtype)


def test_float16_says_what_it_does_not_reach() -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.lm_head.weight[3, 4] = 1e6
    with pytest.raises(CheckpointError, match=r"lm_head.weight has weights that are not finite"):
        packed(model, "float16")
    packed(model, "int8")

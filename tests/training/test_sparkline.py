"""The loss as a line of characters."""

from __future__ import annotations

import math

import pytest

from bardlet.training.sparkline import ASCII, BLOCKS, LONGEST, Sparkline


def drawn(losses: list[float], columns: int = 200, encoding: str = "utf-8") -> str:
    line = Sparkline()
    for loss in losses:
        line.add(loss)
    return line.draw(columns, encoding)


def test_heights_are_of_the_logarithm() -> None:
    powers = [math.exp(k) for k in range(8)]
    assert drawn(powers) == BLOCKS
    assert drawn(powers[2:][::-1], encoding="ascii") == ASCII[::-1]
    assert set(drawn(powers, encoding="cp437x")) <= set(ASCII)  # an encoding that is not known


@pytest.mark.parametrize("count", [1, 24, 25, 48, 49, 1000, 600_000])
def test_a_run_of_any_length_fits(count: int) -> None:
    line = drawn([4.0 - 3.0 * i / count for i in range(count)])
    assert min(count, LONGEST // 2) <= len(line) <= LONGEST
    assert list(line) == sorted(line, reverse=True)


def test_parts_are_means_of_all_losses() -> None:
    line = Sparkline()
    losses = [float(i % 7) for i in range(1234)]
    for loss in losses:
        line.add(loss)
    assert sum(total for total, _ in line.parts) == sum(losses)
    assert sum(count for _, count in line.parts) == len(losses)
    assert len(line.parts) <= 2 * LONGEST


@pytest.mark.parametrize(("columns", "length"), [(200, 24), (80, 20), (64, 4), (63, 0), (10, 0)])
def test_it_is_as_long_as_there_is_room(columns: int, length: int) -> None:
    assert len(drawn([1.0 + 1 / (i + 1) for i in range(20)] * 2, columns)) <= length
    assert bool(drawn([2.0, 1.0], columns)) == (length > 0)


def test_what_is_not_finite_is_left_out() -> None:
    assert drawn([math.nan, math.inf]) == "" == drawn([])
    assert drawn([2.0, math.nan, 2.0]) == BLOCKS[0] * 2
    assert drawn([0.0, 1.0]) == BLOCKS[0] + BLOCKS[-1]

"""Trials of a run: what they may take of the machine."""

from __future__ import annotations

import sys

import pytest

from bardlet.planning import trial


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
@pytest.mark.parametrize(
    ("hard", "size", "expected"),
    [(-1, 8e9, (8_000_000_000, -1)), (4 << 30, 8e9, (4 << 30, 4 << 30)),
     (4 << 30, 1e9, (1_000_000_000, 4 << 30)), (4 << 30, float("inf"), None)],
)  # fmt: skip
def test_a_hard_limit_is_kept(
    hard: int, size: float, expected: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the system has it for all but root, who may raise any limit."""
    import resource

    assert resource.RLIM_INFINITY == -1
    chosen: list[tuple[int, int]] = []

    def setrlimit(kind: int, limits: tuple[int, int]) -> None:
        if hard != -1 and not 0 <= limits[0] <= limits[1] <= hard:
            raise ValueError("not allowed to raise maximum limit")
        chosen.append(limits)

    monkeypatch.setattr(resource, "getrlimit", lambda kind: (hard, hard))
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    trial.limit_memory(size)
    assert chosen == [expected] * (expected is not None)

"""The loss of a run so far as one short line of characters, for the progress display."""

from __future__ import annotations

import math

BLOCKS = (
    "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"  # an eighth of a character's height each
)
ASCII = "_.-=*#"  # for terminals whose encoding has no blocks
LONGEST = 24  # characters
BESIDE = 60  # columns that the rest of the display takes


class Sparkline:
    """Means of equal parts of a run's losses, at most twice LONGEST of them."""

    def __init__(self) -> None:
        self.size = 1  # losses in a part
        self.parts: list[tuple[float, int]] = []  # sum and number

    def add(self, loss: float) -> None:
        """Take in the loss of the next iteration; one that is not finite or known is left out."""
        if not math.isfinite(loss):
            return
        if self.parts and self.parts[-1][1] < self.size:
            total, count = self.parts.pop()
            self.parts.append((total + loss, count + 1))
            return
        if len(self.parts) == 2 * LONGEST:
            self.size *= 2
            pairs = zip(self.parts[::2], self.parts[1::2], strict=True)
            self.parts = [(a + b, m + n) for (a, m), (b, n) in pairs]
        self.parts.append((loss, 1))

    def draw(self, columns: int, encoding: str) -> str:
        """The line for a terminal of so many columns; empty where there is no room for it.

        Heights are of the loss's logarithm, from the lowest part to the highest.
        """
        width = min(LONGEST, columns - BESIDE)
        if width < 4 or not self.parts:
            return ""
        levels = BLOCKS if can_show(encoding) else ASCII
        means = [math.log(max(total / count, 1e-9)) for total, count in joined(self.parts, width)]
        low, span = min(means), max(max(means) - min(means), 1e-9)
        steps = len(levels) - 1
        return "".join(levels[round((mean - low) / span * steps)] for mean in means)


def joined(parts: list[tuple[float, int]], width: int) -> list[tuple[float, int]]:
    """The parts as at most `width` larger ones, each of neighbours."""
    size = math.ceil(len(parts) / width)
    groups = (parts[i : i + size] for i in range(0, len(parts), size))
    return [(math.fsum(s for s, _ in group), sum(n for _, n in group)) for group in groups]


def can_show(encoding: str) -> bool:
    """Whether an encoding has the blocks."""
    try:
        BLOCKS.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True

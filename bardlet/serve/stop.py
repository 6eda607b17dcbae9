"""Text that may be shown as it comes: never a part of what it stops at."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Text before the first of some strings, which may come a few characters at a time.

    What may be the beginning of one is held back until it is known.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self.strings = [string for string in strings if string]
        self.held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """The text that may be shown now that `text` has come; nothing once it has stopped."""
        if self.stopped:
            return ""
        self.held += text
        places = [self.held.find(string) for string in self.strings]
        if places := [place for place in places if place >= 0]:
            shown, self.held, self.stopped = self.held[: min(places)], "", True
            return shown
        keep = max((self.begun(string) for string in self.strings), default=0)
        cut = len(self.held) - keep
        shown, self.held = self.held[:cut], self.held[cut:]
        return shown

    def begun(self, string: str) -> int:
        """How many characters at the end of the held text are the beginning of `string`."""
        longest = min(len(string) - 1, len(self.held))
        return next((n for n in range(longest, 0, -1) if self.held.endswith(string[:n])), 0)

    def end(self) -> str:
        """What was held back, when no more text comes."""
        shown, self.held = self.held, ""
        return shown

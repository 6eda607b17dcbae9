"""Guesses at how a text goes on, which the model verifies several at once.

A token step waits for weights to be read, and reading them for a few rows takes little longer than
for one. Guesses never change a text: each place gets the token that the model chooses there with
the text's own random number, and a guess is kept where it is that token. Leviathan et al.
(arXiv:2211.17192) draw anew instead, which keeps a few more guesses and the distribution, but not
the text of a seed. A draft model guesses with the same random numbers, so that it often chooses
the same.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from bardlet.model import GPT
from bardlet.native.decoding import MAX_GUESSES, Decoder

REST = 64  # tokens
SUFFIXES = (12, 6, 3)  # tokens at the end of a text that are looked up, the longest first


class Guesser(Protocol):
    """Proposes the next tokens of a text."""

    def guess(
        self, tokens: Tensor, uniform: Tensor, temperature: float, top_k: int
    ) -> Tensor:  # fmt: skip
        """At most len(uniform) tokens that may follow a text (P,) int64: (G,) int64."""
        ...


class Pace:
    """When guesses are worth it, and how many: what they take is measured, since no token changes.

    More after all were right, fewer after one was not; none for `REST` tokens where tokens came
    sooner without.
    """

    def __init__(self) -> None:
        self.count = 3
        self.rest = 4  # tokens to write without guesses, which tells what these take
        self.seconds: dict[bool, float] = {}  # a token, with guesses and without: a moving average

    def adjust_count(self, guesses: int, right: int) -> None:
        """Guess more or fewer next time: the first `right` of so many guesses were right."""
        self.count = min(MAX_GUESSES, self.count + 2) if right == guesses else max(1, right)

    def took(self, seconds: float, tokens: int, guessed: bool) -> None:
        """A step of some tokens took so long, with guesses or without."""
        each = seconds / tokens
        self.seconds[guessed] = (each + self.seconds.get(guessed, each)) / 2
        if not guessed:
            self.rest = max(0, self.rest - tokens)
        elif self.seconds[True] > self.seconds.get(False, each):
            self.rest = REST


class Lookup:
    """What followed the newest earlier place of the text's last tokens (prompt lookup)."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.places: dict[tuple[int, ...], int] = {}  # some tokens, and where what follows begins

    def guess(self, tokens: Tensor, uniform: Tensor, temperature: float, top_k: int) -> Tensor:
        ids = tokens.tolist()
        if ids[: len(self.seen)] != self.seen:
            self.seen, self.places = [], {}
        for end in range(max(1, len(self.seen)), len(ids)):  # what follows ids[:end] is known
            for size in SUFFIXES:
                if end >= size:
                    self.places[tuple(ids[end - size : end])] = end
        self.seen = ids
        for size in SUFFIXES:
            place = self.places.get(tuple(ids[-size:])) if len(ids) >= size else None
            if place is not None:
                return tokens[place : place + len(uniform)]
        return tokens[:0]


class Draft:
    """What a smaller model of the same vocabulary writes with the same random numbers."""

    def __init__(self, model: GPT, dtype: torch.dtype, weights: str) -> None:
        self.decoder = Decoder(model.eval(), 1, dtype, weights)
        self.size = model.config.block_size
        self.context = torch.empty(self.size + 1, dtype=torch.int64)  # what its cache is of
        self.length = self.begin = 0

    def guess(self, tokens: Tensor, uniform: Tensor, temperature: float, top_k: int) -> Tensor:
        count = min(len(uniform), self.size // 2)
        if len(tokens) - self.begin + count > self.size + 1 or len(tokens) < self.begin:
            self.begin = max(0, len(tokens) - max(1, self.size // 2))  # room for what follows
            self.length = 0
        new = tokens[self.begin :]
        shared = min(self.length, len(new))
        other = (self.context[:shared] != new[:shared]).nonzero()
        self.decoder.rewind(0, min(int(other[0]) if len(other) else shared, len(new) - 1))
        self.context[: len(new)] = new
        self.length = len(new) + count
        self.decoder.step(
            [self.context], [len(new)], [0], uniform[:count, None].contiguous(), [temperature],
            [top_k],
        )  # fmt: skip
        return self.context[len(new) : self.length].clone()

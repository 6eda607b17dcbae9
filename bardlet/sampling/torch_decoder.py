"""Token steps through the model as it is, on any device: native.decoding.Decoder's twin."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from bardlet.gpu import graphs
from bardlet.gpu.decoding import DecodeStep
from bardlet.model import GPT, KVCache


class TorchDecoder:
    """Logits of up to `streams` texts, those at the same place in their contexts together."""

    def __init__(self, model: GPT, use_cache: bool) -> None:
        self.model, self.use_cache = model, use_cache
        self.captures = model.lm_head.weight.is_cuda
        # of caches whose texts are written token by token
        self.steps: WeakKeyDictionary[KVCache, DecodeStep] = WeakKeyDictionary()
        # streams that step together, and their cache with a row for each
        self.groups: list[tuple[list[int], KVCache]] = []

    def forget(self, stream: int | None = None) -> None:
        """Empty the cache of one stream, or of all: the next step's context begins anew."""
        if stream is None:
            self.groups = []
        else:
            self.take({stream})

    def logits(
        self, contexts: Sequence[Tensor], known: Sequence[int], streams: Sequence[int]
    ) -> Tensor:
        """Logits (n, V) float32 of the token after the first known[i] of each context (S,) int64.

        They are on the model's device.
        """
        device = self.model.lm_head.weight.device
        parts: list[Tensor] = []  # (b, V) each
        order: list[int] = []  # where their rows belong
        places = {stream: i for i, stream in enumerate(streams)}
        for group, cache in self.grouped(places, known):
            past = cache.length if cache else 0
            new = [contexts[places[stream]][past : known[places[stream]]] for stream in group]
            logits = self.next(torch.stack(new).to(device), cache)  # (b, 1, V)
            parts.append(logits[:, -1].float())
            order += [places[stream] for stream in group]
        rows = torch.cat(parts)  # (n, V)
        # as a rule they are in order already
        return rows if order == sorted(order) else rows[torch.tensor(order).argsort().to(device)]

    def next(self, idx: Tensor, cache: KVCache | None) -> Tensor:
        """Logits (b, 1, V) behind idx (b, T) and what is cached."""
        if self.captures and cache is not None and cache.length and idx.size(1) == 1:
            try:
                step = self.steps.get(cache)
                if step is None or cache.length >= step.span:
                    step = self.steps[cache] = DecodeStep(self.model, cache)
                logits = step(idx, cache.length)
                cache.length += 1
                return logits
            except RuntimeError as error:
                self.captures = False
                said = f"CUDA graphs failed, going on without them: {graphs.reason(error)}"
                warnings.warn(said, stacklevel=2)
        return self.model(idx, cache=cache)[0]

    def grouped(
        self, places: dict[int, int], known: Sequence[int]
    ) -> Iterator[tuple[list[int], KVCache | None]]:
        """The streams of a step that the model takes together, with what is cached of them."""
        begun = self.take(set(places)) if self.use_cache else []
        cached = {stream for group, _ in begun for stream in group}
        lengths: dict[int, list[int]] = {}
        for stream, i in places.items():
            if stream not in cached:
                lengths.setdefault(known[i], []).append(stream)
        weight = self.model.lm_head.weight
        for group in lengths.values():
            if self.use_cache:
                cache = KVCache(self.model.config, len(group), weight.device, weight.dtype)
                begun.append((group, cache))
            else:
                yield group, None
        self.groups += begun
        yield from begun

    def take(self, streams: set[int]) -> list[tuple[list[int], KVCache]]:
        """Remove some streams from the groups: themselves, grouped as they were."""
        kept, taken = [], []
        for group, cache in self.groups:
            for part, of in ((kept, set(group) - streams), (taken, set(group) & streams)):
                rows = [row for row, stream in enumerate(group) if stream in of]
                if rows:
                    part.append(([group[row] for row in rows], subset(cache, rows)))
        self.groups = kept
        return taken


def subset(cache: KVCache, rows: list[int]) -> KVCache:
    """Some rows of a cache; the cache itself where they are all of it."""
    if len(rows) == cache.k.size(1):
        return cache
    part = copy.copy(cache)
    part.k, part.v = cache.k[:, rows], cache.v[:, rows]
    return part

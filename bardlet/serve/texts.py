"""The text that a served model was trained on: what it says beside the model."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter

from bardlet.analysis.counts import SplitText
from bardlet.analysis.evidence import evidence
from bardlet.data.dataset import mixture
from bardlet.errors import BardletError, UsageError
from bardlet.run.state import DatasetRef
from bardlet.serve.looking import IdsBody
from bardlet.serve.server import Server, checked


class Texts:
    """The train split and the other of a model's dataset, in memory once they are asked for."""

    def __init__(self, ref: DatasetRef) -> None:
        self.ref, self.lock = ref, asyncio.Lock()
        self.splits: list[SplitText] = []
        self.missing = ""
        self.ready = False

    def load(self) -> None:
        """Read and index the dataset where it is as the model knew it; else `missing` is why."""
        ref = self.ref
        try:
            if not ref.name:
                raise UsageError("this model was not trained here: its text is not known")
            dataset = mixture.opened(ref.name)
            if dataset.hash != ref.hash:
                raise UsageError("the dataset of this model has been prepared anew since")
            dataset.verify()
            self.splits = [SplitText(dataset.splits[name], dataset.tokenizer)
                           for name in ("train", "val")]  # fmt: skip
            for split in self.splits:
                split.index()
        except BardletError as error:
            self.missing = error.message
        self.ready = True


def router(server: Server) -> APIRouter:
    """POST /bardlet/evidence."""
    routes = APIRouter()
    texts: dict[str, Texts] = {}

    @routes.post("/bardlet/evidence")
    async def counted(body: IdsBody) -> dict[str, Any]:
        """What the training text says of the newest tokens; `missing` says why it does not.

        The first question waits until the text is in memory and sorted.
        """
        engine = await server.engine(body.model)
        ref = engine.model.trained.state.dataset
        known = texts.setdefault(server.named(body.model), Texts(ref))
        async with known.lock:
            if not known.ready:
                await asyncio.to_thread(known.load)
        if known.missing:
            return {"missing": known.missing}
        ids = checked(engine.model, body.ids)
        return await asyncio.to_thread(evidence, *known.splits, ids=ids)

    return routes

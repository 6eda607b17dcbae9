"""The dataset that an imported model was trained on: its name there, and where it lies here."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from bardlet.data.dataset import folder, mixture
from bardlet.data.tokenizers.base import fingerprint
from bardlet.errors import BardletError
from bardlet.interop.verify import Trained
from bardlet.run.state import DatasetRef


def nanogpt_folder(path: Path) -> Path:
    """nanoGPT's own folder, for a ckpt.pt in a run's folder in it."""
    return path.resolve().parent.parent


def dataset_of(trained: Trained) -> str:
    """The dataset that a model was trained on, by a name that opens here; empty if none is known.

    nanoGPT's checkpoints have its name, which is looked for here and in the folder they came from.
    """
    known, imported = trained.state.dataset.name, trained.state.imported
    if not imported or not imported.dataset:
        return known
    name = Path(imported.dataset).name
    places = [known, name, str(nanogpt_folder(Path(imported.source)) / "data" / name)]
    return next((place for place in places if place and is_here(place)), known or name)


def is_here(name: str) -> bool:
    return folder.is_dataset(folder.find(name))


def with_dataset(trained: Trained) -> Trained:
    """The same with the dataset that it was trained on, where that lies here, to go on with it."""
    name = dataset_of(trained)
    if not name or trained.state.dataset.name:
        return trained
    try:
        data = mixture.opened(name)
    except BardletError:
        return trained
    if fingerprint(data.tokenizer) != fingerprint(trained.tokenizer):
        return trained
    known = DatasetRef(
        name=mixture.resolved(name),
        hash=data.hash,
        end_of_text=data.end_of_text,
        pairs=data.pairs,
        chat_template=data.chat_template,
    )
    config = {**trained.state.config, "dataset": known.name} if trained.state.config else {}
    state = dataclasses.replace(trained.state, dataset=known, config=config)
    return dataclasses.replace(trained, state=state)

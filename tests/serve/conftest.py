"""A run that is asked: by Python and by clients."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import PLAY, tiny_config

import bardlet
from bardlet.data.prepare.pipeline import prepare
from bardlet.data.text.corpus import Corpus
from bardlet.serve.model import Model
from bardlet.train import train


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few iterations on a play."""
    path = tmp_path_factory.mktemp("served")
    prepare(Corpus(name="play", text=PLAY, sources=()), path / "data")
    config = tiny_config(path / "data", path / "run", block_size=32, max_iters=60, eval_interval=60)
    train(config)
    return path


@pytest.fixture(scope="package")
def model(folder: Path) -> Model:
    return bardlet.load(folder / "run", dtype="float32")

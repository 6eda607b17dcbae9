"""A run that is asked: by Python and by clients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from serve_support import Served, byte_model
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


@pytest.fixture(scope="module")
def served(model: Model) -> Iterator[Served]:
    """The run on a play, served."""
    one = Served(model)
    yield one
    one.close()


@pytest.fixture(scope="module")
def served_chat() -> Iterator[Served]:
    """A model of random bytes that takes conversations, served."""
    one = Served(byte_model(pairs=True, block_size=64))
    yield one
    one.close()

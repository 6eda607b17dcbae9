"""bardlet: train a GPT from raw text on the machine you have.

    dataset = bardlet.prepare("my-texts/")
    run = bardlet.train("demo", dataset=dataset)
    print(bardlet.load(run).generate("Once"))

Importing the package does no work: the module behind a name is imported when the name is used.
"""

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bardlet.commands.prepare import prepare as prepare
    from bardlet.commands.train import train_from_python as train  # noqa: F401
    from bardlet.serve.model import load as load

__version__ = "0.1.0"
# by name: everything below them imports this module for its version
FUNCTIONS = {"load": "bardlet.serve.model", "prepare": "bardlet.commands.prepare"}


class Train(types.ModuleType):
    """The module bardlet.train, which can be called: both are `bardlet.train`."""

    def __call__(self, *bases: Any, **options: Any) -> Any:
        command = importlib.import_module("bardlet.commands.train")
        return command.train_from_python(*bases, **options)


class Package(types.ModuleType):
    """This package, which makes its module `train` callable whenever that is imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "train" and isinstance(value, types.ModuleType):
            value.__class__ = Train
        super().__setattr__(name, value)


def __getattr__(name: str) -> Any:
    if name == "train":
        return importlib.import_module("bardlet.train")
    if name in FUNCTIONS:
        return getattr(importlib.import_module(FUNCTIONS[name]), name)
    raise AttributeError(f"module 'bardlet' has no attribute {name!r}")


sys.modules[__name__].__class__ = Package

"""bardlet: train a GPT from raw text on the machine you have.

Importing the package does no work; `bardlet.cli` loads what a command needs when it runs, and
`bardlet.load` what a model needs.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bardlet.serve.model import load as load

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "load":  # by name: everything below it imports this module for its version
        return importlib.import_module("bardlet.serve.model").load
    raise AttributeError(f"module 'bardlet' has no attribute {name!r}")

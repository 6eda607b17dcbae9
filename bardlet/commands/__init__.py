"""The commands, a module for each: its `run` adds options to a parser, parses, works and prints."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from bardlet.commands.parser import Parser
from bardlet.errors import UsageError, did_you_mean
from bardlet.system.signals import stop_with_launcher

COMMANDS = {
    "demo": "prepare Shakespeare, train a small GPT on it and sample, in about a minute",
    "prepare": "turn text into a dataset folder",
    "train": "train a model, or go on training one",
    "sample": "write text with a trained model",
    "next": "show what a model expects next, beside what its training text has there",
    "chat": "talk with a model that was finetuned on conversations",
    "serve": "answer OpenAI's clients with trained models",
    "eval": "measure a model's loss on a whole split, or its scores on tasks and suites",
    "compare": "put models side by side, and say which differences matter",
    "plan": "say what a run will take, and whether it fits",
    "launch-check": "try out, under torchrun, whether processes can train together",
    "verify-resume": "prove here that a killed run ends as if it had not been",
    "tokenizer": "make, compare and try tokenizers",
    "ls": "list the runs and datasets here",
    "inspect": "describe a dataset, a run or a checkpoint",
    "attention": "show what a model looks at: the weights of its heads over a text",
    "explain": "follow one token through a model, with its numbers and lines of code",
    "count": "count a text in a dataset: how often, where, and what follows it",
    "report": "show runs as curves: live, or as one file",
    "plot": "write a picture of losses",
    "doctor": "say what is wrong with a run",
    "import": "take over a model of transformers', llama.cpp's or nanoGPT's",
    "export": "write a trained model for transformers, llama.cpp, ONNX, nanoGPT or a browser",
}


def call(args: Sequence[str]) -> int:
    """Run the command that `args` begin with; return its exit code."""
    name, *rest = args
    if name not in COMMANDS:
        hint = f"{did_you_mean(name, COMMANDS)}Commands are {', '.join(COMMANDS)}"
        raise UsageError(f"no command {name!r}", hint)
    stop_with_launcher()
    parser = Parser(prog=f"bardlet {name}", description=COMMANDS[name])
    command = importlib.import_module(f"bardlet.commands.{name.replace('-', '_')}")
    return command.run(parser, rest)

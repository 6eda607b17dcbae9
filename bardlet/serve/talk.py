"""A model at the terminal: a prompt, its text, and the next, with options that can be changed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from bardlet.errors import BardletError
from bardlet.serve.completion import Completion
from bardlet.serve.model import CHOICE, Model

OPTIONS = sorted({*CHOICE, "max_new_tokens", "seed", "stop"} - {"logit_bias"})
HELP = f"""Type a prompt: the model goes on from it. Ctrl-C stops the text, Ctrl-D ends.
  /NAME VALUE   set an option, such as /temperature 0.5; options are
                {", ".join(OPTIONS)}
  /options      their values
  /more         go on with the last text
  /help         this"""


def talk(model: Model, options: dict[str, Any], write: Callable[[str], None]) -> None:
    """Ask for prompts until the input ends, and write the text that goes on from each.

    Each text has the next sample of the seed. Lines are edited and kept as readline does it.
    """
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401, where it is there, `input` has history and editing
    write(f"{HELP}\n")
    last, number = "", 0
    while True:
        try:
            line = input("> ")
        except EOFError:
            write("\n")
            return
        except KeyboardInterrupt:
            write("\n")
            continue
        try:
            if line == "/more":
                line = last
            elif line.startswith("/"):
                write(f"{command(line[1:], options)}\n")
                continue
            request = model.request(line, number=number, **options)
            number += 1
            last = written(line, model.pieces(Completion(request)), write)
        except BardletError as error:
            write(f"{error}\n")


def written(prompt: str, pieces: Iterator[str], write: Callable[[str], None]) -> str:
    """The prompt with the text that was written behind it until it ended or Ctrl-C came."""
    text = prompt
    write(prompt)
    with contextlib.suppress(KeyboardInterrupt):
        for piece in pieces:
            write(piece)
            text += piece
    write("\n")
    return text


def command(line: str, options: dict[str, Any]) -> str:
    """Carry out what stands behind a slash; return what it says."""
    name, _, value = line.partition(" ")
    if name == "options":
        return ", ".join(f"{name} {options[name]!r}" for name in OPTIONS if name in options)
    if name not in OPTIONS:
        return HELP
    if name == "stop":
        options[name] = [value.replace("\\n", "\n")] if value else []
        return f"stop {options[name]!r}"
    kind = type(options[name])
    try:
        options[name] = kind(value)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        return f"/{name} takes {what}, such as {options[name]}, not {value!r}"
    return f"{name} {options[name]}"

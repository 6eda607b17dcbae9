"""Writes docs/cli.md from the commands' own help; tests/test_docs.py keeps it current."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path

from bardlet.cli import main
from bardlet.commands import COMMANDS, tokenizer


def document() -> str:
    """The page: every command's --help."""
    os.environ["COLUMNS"] = "100"
    parts = ["# Commands\n", "Written by `make docs` from the commands' own help.\n"]
    for command in ("", *COMMANDS, *(f"tokenizer {action}" for action in tokenizer.ACTIONS)):
        text = io.StringIO()
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            main([*command.split(), "--help"])
        heading = f"## bardlet {command}".rstrip()
        parts.append(f"{heading}\n\n```text\n{text.getvalue().rstrip()}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    Path(__file__).with_name("cli.md").write_text(document(), encoding="utf-8")

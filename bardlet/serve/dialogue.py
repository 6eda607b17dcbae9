"""A conversation at the terminal: answers are streamed, and the history can be saved."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bardlet.data.text.conversations import key_of
from bardlet.errors import BardletError, UsageError
from bardlet.io.atomic import write_text
from bardlet.serve import talk
from bardlet.serve.completion import Completion
from bardlet.serve.model import Model

HELP = f"""Type a message. Ctrl-C stops the answer, Ctrl-D ends.
  /reset        begin anew
  /system TEXT  begin anew with this system message; without text: with none
  /undo         take the last message and its answer back
  /save FILE    append the conversation to a .jsonl file, as `bardlet prepare` reads it
  /NAME VALUE   set an option, such as /temperature 0.5; options are
                {", ".join(talk.OPTIONS)}
  /options      their values
  /help         this"""


class Dialogue:
    """The messages so far, and what is done with a line that is typed."""

    def __init__(
        self, model: Model, options: dict[str, Any], write: Callable[[str], None],
        system: str = "",
    ) -> None:  # fmt: skip
        self.model, self.options, self.write = model, options, write
        self.conversations = model.conversations  # or there can be none
        self.messages: list[dict[str, str]] = []
        self.dropped = 0  # messages that the last prompt had no room for
        self.number = 0  # of answers, each of which has the next sample of the seed
        self.begin(system)

    def begin(self, system: str) -> None:
        """Forget all messages, with a system message before what comes if it has text."""
        self.messages = [{"role": "system", "content": system}] if system.strip() else []
        self.dropped = 0

    @property
    def system(self) -> str:
        first = self.messages[0] if self.messages else {"role": ""}
        return first["content"] if first["role"] == "system" else ""

    def take(self, line: str) -> None:
        """Answer a message, or carry out a command; what is wrong with it is written."""
        try:
            if line.startswith("/"):
                self.write(f"{self.command(line[1:])}\n")
            elif line.strip():
                self.answer(line)
        except BardletError as error:
            self.write(f"{error}\n")

    def answer(self, line: str) -> None:
        """Write the answer to a message, as it comes; both are kept, to where Ctrl-C stopped it."""
        asked = [*self.messages, {"role": "user", "content": line}]
        request, prompt = self.conversations.request(asked, number=self.number, **self.options)
        if prompt.dropped != self.dropped:
            self.write(
                f"(the context is full: the oldest {prompt.dropped} messages are left out)\n"
            )
        self.dropped = prompt.dropped
        self.number += 1
        completion = Completion(request)
        with contextlib.suppress(KeyboardInterrupt):
            for piece in self.model.pieces(completion):
                self.write(piece)
        self.write("\n")
        self.messages = [*asked, {"role": "assistant", "content": completion.text}]

    def command(self, line: str) -> str:
        """Carry out what stands behind a slash; return what it says."""
        name, _, value = line.partition(" ")
        if name == "reset":
            self.begin(self.system)
            return "the conversation begins anew"
        if name == "system":
            self.begin(value)
            return (
                f"the conversation begins anew, {'as told' if value.strip() else 'without system'}"
            )
        if name == "undo":
            kept = [i for i, message in enumerate(self.messages) if message["role"] == "user"]
            if not kept:
                return "there is nothing to take back"
            self.messages = self.messages[: kept[-1]]
            return f"{len(self.messages)} messages are left"
        if name == "save":
            return self.save(Path(value.strip())) if value.strip() else "/save takes a file"
        return (
            HELP if name == "help" or name not in OPTION_NAMES else talk.command(line, self.options)
        )

    def save(self, path: Path) -> str:
        """Append the conversation to a file of conversations, a line each."""
        record = {"messages": self.messages}
        if not key_of(record):
            return "there is nothing to save"
        try:
            before = path.read_text(encoding="utf-8") if path.exists() else ""
            if before and not before.endswith("\n"):
                before += "\n"
            write_text(path, before + json.dumps(record, ensure_ascii=False) + "\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot save to {path}: {error}", "Name another file") from None
        return f"saved as line {before.count(chr(10)) + 1} of {path}"


OPTION_NAMES = {*talk.OPTIONS, "options"}


def converse(dialogue: Dialogue) -> None:
    """Ask for messages until the input ends. Lines are edited and kept as readline does it."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401, where it is there, `input` has history and editing
    while True:
        try:
            line = input("> ")
        except EOFError:
            dialogue.write("\n")
            return
        except KeyboardInterrupt:
            dialogue.write("\n")
            continue
        dialogue.take(line)

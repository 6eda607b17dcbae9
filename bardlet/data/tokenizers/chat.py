"""Conversations to token ids: the template that puts roles around texts, and what of it counts.

The names of special tokens in a template are these tokens; in what people or models have written
they are text like any other, which no message can use to speak in another role.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bardlet.data.tokenizers.base import Tokenizer
from bardlet.errors import DataError, UsageError, did_you_mean
from bardlet.io.safe_read import read_text

Messages = Sequence[Mapping[str, str]]  # each with role and content
NAME = re.compile(r"<\|[^|<>\s]{1,40}\|>")  # of a special token in a template
SPARE = [chr(point) for point in range(0xFDD0, 0xFDF0)]  # that Unicode has for marks in programs

# `<end>` is what stands between texts: a conversation begins behind it, as documents do.
# A message's content may be a list of parts, as OpenAI's clients send it.
CONTENT = (
    "{%- set content = message['content'] if message['content'] is string else"
    " message['content'] | default([], true) | map(attribute='text') | join('') -%}"
    "{%- set content = content | trim -%}"
)
CHATML = (
    "{{- <end> -}}{%- for message in messages -%}" + CONTENT +
    "{{- '<|im_start|>' + message['role'] + '\\n' -}}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{- content + '<|im_end|>' -}}{%- endgeneration -%}"
    "{%- else -%}{{- content + '<|im_end|>' -}}{%- endif -%}"
    "{{- '\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)  # fmt: skip
LLAMA3 = (
    "{{- <end> -}}{%- for message in messages -%}" + CONTENT +
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' -}}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{- content + '<|eot_id|>' -}}{%- endgeneration -%}"
    "{%- else -%}{{- content + '<|eot_id|>' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{%- endif -%}"
)  # fmt: skip
TEMPLATES = {"chatml": CHATML, "llama3": LLAMA3}
DEFAULT = "chatml"


def named(name: str, end: str) -> str:
    """The template that --chat_template asks for, in Jinja; `end` is the name of the token between
    texts. UsageError where there is none of this name, DataError where its file cannot be read.
    """
    if name in TEMPLATES:
        return TEMPLATES[name].replace("<end>", json.dumps(end))
    path = Path(name)
    try:
        there = path.is_file()
    except (OSError, ValueError):  # a template in place of its file, which is too long for a name
        there = False
    if not there:
        raise UsageError(
            f"chat_template={name[:80]} is neither a file nor one of {', '.join(TEMPLATES)}",
            did_you_mean(name, TEMPLATES) or "A file has a template in Jinja",
        )
    try:
        from bardlet.data.tokenizers.jinja import MAX_SOURCE

        return read_text(path, max_bytes=4 * MAX_SOURCE)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the chat template {path}: {error}") from None


def role_tokens(source: str) -> list[str]:
    """The names of the special tokens that a template writes."""
    return list(dict.fromkeys(NAME.findall(source)))


class ChatTemplate:
    """A template, and the tokenizer that has its special tokens."""

    def __init__(self, source: str, tokenizer: Tokenizer) -> None:
        """DataError where the template cannot be used."""
        self.source, self.tokenizer = source, tokenizer
        from bardlet.data.tokenizers.jinja import Template  # slow to import

        self.template = Template(source)
        self.special = tokenizer.special()
        longest_first = sorted({*self.special, *role_tokens(source)}, key=len, reverse=True)
        self.names = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        end = tokenizer.end_of_text
        name = next((n for n, i in self.special.items() if i == end), "")
        self.values = {"bos_token": name, "eos_token": name}

    def typed(self, text: str) -> int:
        """How often a text has the name of a special token, which is no such token there."""
        return len(self.names.findall(text))

    def encode(
        self, messages: Messages, *, prompt: bool = False, after: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ids of a conversation, (T,) int64, and which of them count in the loss, (T,) bool.

        What the assistant has written counts, to the end of its turn, but for the first `after`
        messages. With `prompt` the beginning
        of an answer stands at the end. DataError where the template does not take the messages, or
        does not show what of its text is an answer.
        """
        used = {*self.source}.union(*(message["content"] for message in messages))
        spare = [mark for mark in SPARE if mark not in used]
        if len(spare) < 3:
            raise DataError(
                "the conversation has nearly all characters from U+FDD0 to U+FDEF, three of which "
                "must be free to mark its answers",
                "Remove them: Unicode reserves them for programs, and text has none",
            )
        first, last, broken = spare[:3]
        rendered = self.render(messages, (first, last), broken, prompt=prompt)
        ids: list[np.ndarray] = [np.zeros(0, dtype=np.int64)]
        counted: list[np.ndarray] = [np.zeros(0, dtype=bool)]
        counts, waiting = False, [("", False)]  # texts up to a special token, and what counts

        def add_text() -> None:
            text = "".join(part for part, _ in waiting)
            if text:
                tokens = self.tokenizer.encode(text).astype(np.int64)
                ids.append(tokens)
                counted.append(self.overlapping(waiting, tokens))
            waiting[:] = [("", False)]

        for part in re.split(f"([{first}{last}]|{self.names.pattern})", rendered):
            if part in (first, last):
                counts = part == first
            elif part in self.special:
                add_text()
                ids.append(np.array([self.special[part]]))
                counted.append(np.array([counts]))
            elif part:
                waiting.append((part.replace(broken, ""), counts))
        add_text()
        before = sum(message["role"] == "assistant" for message in messages[:after])
        return np.concatenate(ids), without_first(np.concatenate(counted), before)

    def overlapping(self, parts: Sequence[tuple[str, bool]], tokens: np.ndarray) -> np.ndarray:
        """Which `tokens` (T,) of a text have a character of a part that counts, (T,) bool."""
        result, before = np.zeros(len(tokens), dtype=bool), ""
        for text, counts in parts:
            if counts and text:
                begin = self.shared(before, tokens)
                ends = len(self.tokenizer.encode(before + text))
                result[begin : max(begin + 1, ends)] = True
            elif text and before and result.any():
                result[len(self.tokenizer.encode(before)) :] = False
            before += text
        return result

    def shared(self, before: str, tokens: np.ndarray) -> int:
        """How many tokens a text has in common with `before`, which it begins with."""
        if not before:
            return 0
        head = self.tokenizer.encode(before).astype(np.int64)[: len(tokens)]
        same = head == tokens[: len(head)]
        return len(head) if same.all() else int(same.argmin())

    def render(
        self, messages: Messages, marks: tuple[str, str], broken: str, *, prompt: bool
    ) -> str:
        """The text of a conversation, with marks around what counts and one in the names of special
        tokens that somebody has typed.
        """

        def rendered(change: Any = None) -> str:
            shown = [
                {**m, "content": self.names.sub(lambda name: split(name[0], broken), m["content"])}
                for m in messages
            ]
            shown = [change(m) if change and m["role"] == "assistant" else m for m in shown]
            return self.template.render(
                marks if not change else ("", ""), messages=shown, add_generation_prompt=prompt,
                tools=None, documents=None, **self.values,
            )  # fmt: skip

        plain = rendered()
        if self.template.marks_answers:
            return plain
        first, last = marks
        for strip in (False, True):

            def marked(message: Mapping[str, str], strip: bool = strip) -> dict[str, str]:
                text = message["content"]
                return {**message, "content": f"{first}{text.strip() if strip else text}{last}"}

            shown = rendered(marked)
            if shown.replace(first, "").replace(last, "") == plain:
                # the token that ends the turn is a part of the answer
                return re.sub(f"{last}({self.names.pattern})", rf"\1{last}", shown)
        raise DataError(
            "the chat template changes what the assistant says, so what counts is not known",
            "Give one with {% generation %} around it, or --chat_template chatml",
        )

    @cached_property
    def end_of_turn(self) -> int | None:
        """The special token that ends an answer, None where none does."""
        messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "a"}]
        ids, counts = self.encode(messages)
        last = int(ids[counts][-1]) if counts.any() else -1
        return last if last in self.special.values() else None

    @cached_property
    def characters(self) -> str:
        """All text that the template itself writes, for a vocabulary that is made of characters."""
        marks = (SPARE[0], SPARE[1])
        messages = [{"role": role, "content": "a"} for role in ("system", "user", "assistant")]
        try:
            shown = self.render(messages, marks, SPARE[2], prompt=True)
        except DataError:  # of a template that takes no system message
            shown = self.render(messages[1:], marks, SPARE[2], prompt=True)
        return self.names.sub("", shown).replace(marks[0], "").replace(marks[1], "")

    @property
    def passes_on(self) -> bool:
        """Whether it adds nothing that tells roles apart, as the template of a base model."""
        messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "a"}]
        ids, _ = self.encode(messages)
        roles = {*self.special.values()} - {self.tokenizer.end_of_text}
        return not {*"".join(self.characters.split())} - {"a"} and not roles & {*ids.tolist()}


def without_first(counted: np.ndarray, runs: int) -> np.ndarray:
    """`counted` (T,) bool without its first `runs` runs of tokens that count."""
    begins = counted & ~np.concatenate(([False], counted[:-1]))
    return counted & (np.cumsum(begins) > runs) if runs else counted


def split(name: str, mark: str) -> str:
    """A name with a mark in it, which makes it the name of nothing."""
    return f"{name[:1]}{mark}{name[1:]}"

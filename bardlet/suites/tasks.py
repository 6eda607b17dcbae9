"""Tasks in JSONL: multiple choice and last-word cloze, an example a line."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from bardlet.errors import DataError
from bardlet.io.safe_read import parse_json

LONGEST_LINE = 1 << 24  # bytes
MAX_CHOICES = 1000
FIELDS = (
    "An example is an object with context, choices and answer; HellaSwag's ctx, endings and label; "
    "context and target; or text, whose last word is the target"
)


@dataclass(frozen=True, kw_only=True)
class MultipleChoice:
    """A context and the texts that may follow it, of which one is right."""

    line: int
    context: str
    delimiter: str  # between the context and each choice
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True, kw_only=True)
class Cloze:
    """A context and the text that follows it."""

    line: int
    context: str
    target: str  # with what parts it from the context


Example = MultipleChoice | Cloze


@dataclass(frozen=True, kw_only=True)
class Task:
    """Examples of one kind."""

    name: str
    examples: tuple[Example, ...]

    @property
    def kind(self) -> str:
        return "multiple_choice" if isinstance(self.examples[0], MultipleChoice) else "cloze"


def read_task(path: str, delimiter: str = " ") -> Task:
    """The task in a JSONL file, or on standard input for "-".

    `delimiter` stands between a context and its choices or target. DataError where there is no such
    file or a line is not an example, with its number.
    """
    name = "standard input" if path == "-" else path
    examples: list[Example] = []
    for number, document in lines(path, name):
        try:
            examples.append(example_of(document, number, delimiter))
        except ValueError as error:
            raise DataError(f"{name}, line {number}: {error}", FIELDS) from None
        if type(examples[-1]) is not type(examples[0]):
            raise DataError(
                f"{name} mixes multiple choice with cloze, from line {number} on",
                "Give each a file of its own, and --task for each",
            )
    if not examples:
        raise DataError(f"{name} has no examples", FIELDS)
    stem = "stdin" if path == "-" else Path(path).name.removesuffix(".jsonl")
    return Task(name=stem, examples=tuple(examples))


def lines(path: str, name: str) -> Iterator[tuple[int, Any]]:
    """Yields the JSON value of each line that is not blank, with its number from 1 on."""
    try:
        if path == "-":
            yield from parsed(sys.stdin.buffer, name)
        else:
            with Path(path).open("rb") as file:
                yield from parsed(file, name)
    except OSError as error:
        raise DataError(
            f"cannot read {name}: {error.strerror}", "--task takes a JSONL file, or - for a pipe"
        ) from None


def parsed(file: BinaryIO, name: str) -> Iterator[tuple[int, Any]]:
    number = 0
    while raw := file.readline(LONGEST_LINE + 1):
        number += 1
        if len(raw) > LONGEST_LINE:
            raise DataError(f"{name}, line {number} has more than {LONGEST_LINE:,} bytes")
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            if text:
                yield number, parse_json(text)
        except UnicodeDecodeError:
            raise DataError(f"{name}, line {number} is not UTF-8") from None
        except ValueError as error:
            raise DataError(
                f"{name}, line {number} is not JSON: {error}", "A task has a JSON object a line"
            ) from None


def example_of(document: Any, line: int, delimiter: str) -> Example:
    """The example that a line's value describes; ValueError where it is not an example."""
    if not isinstance(document, dict):
        raise ValueError(f"it is {type(document).__name__}, not an object")
    if "endings" in document:
        choices = tuple(cleaned(ending) for ending in texts(document, "endings"))
        return choice(line, hellaswag_context(document), choices, document.get("label"), delimiter)
    if "choices" in document:
        key = first_key(document, "context", "query", "question")
        answer = document.get(first_key(document, "answer", "gold", "label"))
        return choice(line, string(document, key), texts(document, "choices"), answer, delimiter)
    if "target" in document:
        target = string(document, "target")
        if not target:
            raise ValueError("its target is empty")
        return Cloze(line=line, context=string(document, "context"), target=delimiter + target)
    if "text" in document:
        context, space, last = string(document, "text").rpartition(" ")
        if not space or not last:
            raise ValueError("its text has no last word behind a space")
        return Cloze(line=line, context=context, target=space + last)
    raise ValueError(f"it has only {', '.join(sorted(map(str, document))) or 'no keys'}")


def choice(
    line: int, context: str, choices: tuple[str, ...], answer: Any, delimiter: str
) -> MultipleChoice:
    """A multiple choice; ValueError where it has fewer than two choices, or no such answer."""
    if not 2 <= len(choices) <= MAX_CHOICES:
        raise ValueError(f"it has {len(choices)} choices, not 2 to {MAX_CHOICES}")
    if not all(choices):
        raise ValueError("a choice is empty")
    return MultipleChoice(
        line=line, context=context, delimiter=delimiter, choices=choices,
        answer=answer_of(answer, choices),
    )  # fmt: skip


def answer_of(answer: Any, choices: tuple[str, ...]) -> int:
    """The number of the right choice, by number, by text, or by letter."""
    index = -1
    if type(answer) is int:
        index = answer
    elif answer in choices:
        index = choices.index(answer)
    elif isinstance(answer, str) and re.fullmatch(r"\d{1,4}", answer, re.ASCII):
        index = int(answer)
    elif isinstance(answer, str) and re.fullmatch("[A-Z]", answer):
        index = ord(answer) - ord("A")
    if not 0 <= index < len(choices):
        shown = str(answer)[:60]
        raise ValueError(f"its answer {shown!r} is not one of its {len(choices)} choices")
    return index


def hellaswag_context(document: Mapping[str, Any]) -> str:
    """The context of a line of HellaSwag (arXiv:1905.07830), as harnesses put it together: the
    activity, a colon, and both parts of the context without the marks of wikiHow.
    """
    if "ctx_a" in document and "ctx_b" in document:
        context = string(document, "ctx_a") + " " + string(document, "ctx_b").capitalize()
    else:
        context = string(document, "ctx")
    if document.get("activity_label"):
        context = string(document, "activity_label") + ": " + context
    return cleaned(context)


def cleaned(text: str) -> str:
    """A text of HellaSwag without the marks of wikiHow in brackets."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def first_key(document: Mapping[str, Any], *keys: str) -> str:
    return next((key for key in keys if key in document), keys[0])


def string(document: Mapping[str, Any], key: str) -> str:
    value = document.get(key)
    if not isinstance(value, str):
        raise ValueError(f"its {key} is {'missing' if value is None else 'not a text'}")
    return value


def texts(document: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = document.get(key)
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        raise ValueError(f"its {key} are not a list of texts")
    return tuple(value)

"""Chat templates in Jinja, rendered as transformers renders them, with bounds.

A template comes with a model, and so from anyone. It runs in Jinja's sandbox, which reaches no
attribute of Python's own; beyond that the steps of a rendering and the size of every text in it
are bounded, and filters and methods are those of the lists below.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.compiler import CodeGenerator
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from bardlet.errors import DataError

MAX_SOURCE = 1 << 17  # characters of a template; the longest in use have 20,000
MAX_TEXT = 1 << 24  # characters of any text while it is rendered, and items of a list
MAX_STEPS = 1 << 16  # passes of loops, and calls, of one rendering
MAX_INT = 1 << 63
FILTERS = {  # of a template's values
    "abs", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "groupby",
    "int", "items", "join", "last", "length", "list", "lower", "map", "max", "min",
    "reject", "rejectattr", "replace", "reverse", "safe", "select", "selectattr", "sort",
    "string", "sum", "title", "tojson", "trim", "unique", "upper",
}  # fmt: skip
METHODS = {  # of a template's values
    "capitalize", "count", "endswith", "find", "get", "index", "isalpha", "isdigit",
    "isspace", "items", "join", "keys", "lower", "lstrip", "replace", "rfind", "rsplit",
    "rstrip", "split", "splitlines", "startswith", "strip", "title", "upper", "values",
}  # fmt: skip
DATE = re.compile(r"(%[a-zA-Z]|[^%]){0,64}")


class Generator(CodeGenerator):
    """Jinja's compiler, whose `~` is bounded too."""

    def visit_Concat(self, node: nodes.Concat, frame: Any) -> None:  # noqa: N802
        self.write("environment.joined((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class Generation(Extension):
    """transformers' tag around what an assistant writes: its text comes between two marks."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("marked"), [], [], body).set_lineno(line)

    def marked(self, caller: Callable[[], str]) -> str:
        first, last = self.environment.marks  # pyright: ignore[reportAttributeAccessIssue]
        return f"{first}{caller()}{last}"


class Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with the bounds above."""

    code_generator_class = Generator
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, optimized=False, cache_size=0,
            extensions=[Generation, loopcontrols],
        )  # fmt: skip
        self.marks: tuple[str, str] = ("", "")
        self.left = MAX_STEPS
        self.filters = {name: f for name, f in self.filters.items() if name in FILTERS}
        self.filters |= {
            "tojson": to_json, "bounded": self.bounded, "join": self.filter_join,
            "replace": self.filter_replace,
        }  # fmt: skip
        kept = {name: self.globals[name] for name in ("range", "namespace", "dict")}
        self.globals = {**kept, "raise_exception": refuse, "strftime_now": today}

    def spend(self, steps: int = 1) -> None:
        self.left -= steps
        if self.left < 0:
            raise TemplateError(f"it takes more than {MAX_STEPS:,} steps")

    def bounded(self, items: Iterable[Any]) -> Iterator[Any]:
        """The items that a loop goes through, each of them a step."""
        for item in items:
            self.spend()
            yield item

    def joined(self, parts: Sequence[object]) -> str:
        texts = [str(part) for part in parts]
        fits(sum(map(len, texts)))
        return "".join(texts)

    def filter_join(self, items: Iterable[Any], d: str = "", attribute: Any = None) -> str:
        if attribute is not None:
            items = [self.getitem(item, attribute) for item in items]
        texts = [str(item) for item in items]
        fits(sum(map(len, texts)) + len(str(d)) * len(texts))
        return str(d).join(texts)

    def filter_replace(self, text: object, old: str, new: str, count: int = -1) -> str:
        text, old, new = str(text), str(old), str(new)
        fits(len(text) + (text.count(old) if old else len(text) + 1) * len(new))
        return text.replace(old, new, -1 if count is None else count)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        sized = [len(side) for side in (left, right) if isinstance(side, str | list | tuple)]
        if operator == "**" or (operator == "%" and isinstance(left, str)):
            raise TemplateError(f"the operator {operator} is not allowed")
        if operator == "+":
            fits(sum(sized))
        elif operator == "*" and sized:
            fits(sized[0] * max(0, *(s for s in (left, right) if isinstance(s, int)), 0))
        result = super().call_binop(context, operator, left, right)
        if isinstance(result, int) and abs(result) >= MAX_INT:
            raise TemplateError("a number is too large")
        return result

    def wrap_str_format(self, value: Any) -> None:
        """No method format: its widths have no bounds."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        plain = isinstance(obj, str | list | tuple | dict | int | float)
        return super().is_safe_attribute(obj, attr, value) and (not plain or attr in METHODS)

    def call(self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        self.spend()
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, str) and name == "join":
            return self.filter_join(*args, d=owner)
        if isinstance(owner, str) and name == "replace":
            return self.filter_replace(owner, *args)
        return super().call(__context, __obj, *args, **kwargs)


class Template:
    """A compiled template; DataError says what is wrong with one that cannot be."""

    def __init__(self, source: str) -> None:
        if len(source) > MAX_SOURCE:
            raise damaged(f"it has more than {MAX_SOURCE:,} characters")
        self.environment = Environment()
        try:
            tree = self.environment.parse(source)
            for step in tree.find_all(nodes.Filter):
                if step.name not in FILTERS:
                    raise TemplateError(f"the filter {step.name} is not allowed")
            if next(tree.find_all((nodes.Include, nodes.Import, nodes.FromImport)), None):
                raise TemplateError("it asks for another file")
            for loop in list(tree.find_all(nodes.For)):
                loop.iter = nodes.Filter(loop.iter, "bounded", [], [], None, None)
            # whether it says itself what an assistant writes
            calls = tree.find_all(nodes.CallBlock)
            self.marks_answers = any("marked" in repr(call.call) for call in calls)
            self.template = self.environment.from_string(tree)
        except (TemplateError, RecursionError, ValueError, TypeError, SyntaxError) as error:
            raise damaged(error) from None

    def render(self, marks: tuple[str, str], **values: Any) -> str:
        """The text for these values, with `marks` around what an assistant writes.

        DataError where the template refuses the values, fails, or goes beyond its bounds.
        """
        self.environment.marks, self.environment.left = marks, MAX_STEPS
        size, parts = 0, []
        try:
            for part in self.template.generate(**values):
                size += len(part)
                fits(size)
                parts.append(part)
        except Exception as error:  # whatever a template may do
            raise damaged(error) from None
        return "".join(parts)


def damaged(why: object) -> DataError:
    first = (str(why).splitlines() or [type(why).__name__])[0][:200]
    return DataError(
        f"the chat template cannot be used: {first}", "--chat_template chatml is one that can"
    )


def fits(size: int) -> None:
    """Raise TemplateError for a text or list of such a size where that is too large."""
    if size > MAX_TEXT:
        raise TemplateError(f"a text of more than {MAX_TEXT:,} characters")


def refuse(message: object) -> None:
    """What a template calls for messages that it does not take."""
    raise TemplateError(str(message))


def today(form: str) -> str:
    """The date, which some templates tell the model."""
    if not isinstance(form, str) or not DATE.fullmatch(form):
        raise TemplateError("strftime_now takes a format of a date")
    return datetime.now().strftime(form)


def to_json(value: object, ensure_ascii: bool = False, indent: int | None = None,
            **options: Any) -> str:  # fmt: skip
    """JSON as transformers' templates have it."""
    if not isinstance(value, str | int | float | list | tuple | Mapping | None):
        raise TemplateError("tojson takes plain values")
    if indent is not None and not 0 <= indent <= 16:
        raise TemplateError("tojson takes an indent of 16 at most")
    separators, sort = options.get("separators"), bool(options.get("sort_keys"))
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort
    )

"""nanoGPT's configuration files: Python's assignments, read from their syntax.

What is arithmetic on constants is computed here, each result bounded in size. Nothing is executed:
nothing bardlet opens can run code.
"""

from __future__ import annotations

import ast
import operator
import re
import time
from collections.abc import Callable
from typing import Any

from bardlet.config import FIELDS, Value
from bardlet.errors import UsageError

# characters of a line, since Python's TOML takes time quadratic in a key's dots, and of a text
LONGEST = 4096
MAX_BITS = 1000  # of a number that a power or a shift makes, about 10^300
LARGEST = 10**300
SPEC = re.compile(r"[<>=^]?[-+ ]?0?\d{0,2}[,_]?(\.\d{1,2})?[a-zA-Z%]?")  # of a value in an f-string
IMPORTS = ("time", "torch")  # which nanoGPT's files use for what is known below
MACHINE = ("torch.cuda.is_available()", "torch.cuda.is_bf16_supported()",
           "torch.backends.mps.is_available()")  # fmt: skip
MAX_DECIMALS = 20


class TooLargeError(ArithmeticError):
    """A result would not be a number that any option takes."""


def power(base: Any, exponent: Any) -> Any:
    """base ** exponent, where that is a number of bounded size."""
    whole = isinstance(base, int) and isinstance(exponent, int)
    if whole and base.bit_length() * max(exponent, 0) > MAX_BITS:
        raise TooLargeError
    result = base**exponent
    if isinstance(result, complex):
        raise ArithmeticError("it is not a real number")
    return result


def shift(number: Any, bits: Any) -> Any:
    if isinstance(bits, int) and isinstance(number, int) and bits + number.bit_length() > MAX_BITS:
        raise TooLargeError
    return number << bits


ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
    ast.Pow: power, ast.LShift: shift, ast.RShift: operator.rshift,
}  # fmt: skip
COMPARISONS: dict[type, Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le,
    ast.Gt: operator.gt, ast.GtE: operator.ge,
}  # fmt: skip
# of numbers alone
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "int": int, "float": float, "round": round, "min": min, "max": max, "abs": abs, "str": str
}  # fmt: skip


def read_assignments(text: str, name: str) -> dict[str, object]:
    """The options that a nanoGPT config file assigns, read from its syntax and never executed.

    Constants, arithmetic, comparisons and conditions on them, f-strings, and names assigned above
    are understood; a name that is no option but is used by a line is a helper and is left out.
    Raises UsageError with the line where there is anything else.
    """
    reader = Reader(name)
    try:
        tree = ast.parse(text)
        for statement in tree.body:
            reader.read(statement)
        used = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and type(n.ctx) is ast.Load}
    except (SyntaxError, RecursionError, MemoryError, ValueError) as error:
        raise UsageError(f"{name} cannot be read: {error}") from None
    return {key: v for key, v in reader.values.items() if key in FIELDS or key not in used}


def machine_has(question: str) -> bool:
    """The answer of this machine to one of MACHINE; torch is imported where a file asks."""
    import torch

    if "mps" in question:
        return torch.backends.mps.is_available()
    cuda = torch.cuda.is_available()
    return cuda and torch.cuda.is_bf16_supported() if "bf16" in question else cuda


class Reader:
    """Follows the statements of one file."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.values: dict[str, Any] = {}

    def read(self, statement: ast.stmt) -> None:
        """Assign what a statement assigns."""
        match statement:
            case ast.Assign(targets=targets, value=node) if all(
                isinstance(target, ast.Name) for target in targets
            ):
                pass
            case ast.AnnAssign(target=ast.Name() as target, value=ast.expr() as node):
                targets = [target]
            case ast.AugAssign(target=ast.Name(id=target) as name, op=op, value=value):
                here = ast.copy_location(ast.Name(id=target, ctx=ast.Load()), name)
                node = ast.copy_location(ast.BinOp(left=here, op=op, right=value), statement)
                targets = [name]
            case ast.Expr(value=ast.Constant()):
                return  # a docstring
            case ast.Import(names=[ast.alias(name=module, asname=None)]) if module in IMPORTS:
                return
            case _:
                raise self.refused(statement, "only lines like `batch_size = 12` are read")
        try:
            result = self.value(node)
        except TooLargeError:
            raise self.refused(statement, "the result is too large") from None
        except ArithmeticError as error:
            raise self.refused(statement, str(error)) from None
        except TypeError as error:  # a text among numbers
            raise self.refused(statement, f"{error} is not arithmetic on constants") from None
        for target in targets:
            assert isinstance(target, ast.Name)
            # on a CPU the second of nanoGPT's two is float32 in truth: bardlet chooses itself
            asks = target.id == "dtype" and isinstance(node, ast.IfExp) and self.asks(node.test)
            self.values[target.id] = "auto" if asks else result

    def refused(self, node: ast.stmt | ast.expr, why: str) -> UsageError:
        return UsageError(f"{self.name}, line {node.lineno}: {why}")

    def asks(self, test: ast.expr) -> bool:
        """Whether a condition asks what machine this is."""
        calls = [node for node in ast.walk(test) if isinstance(node, ast.Call)]
        return any(self.dotted(call) in MACHINE for call in calls)

    def dotted(self, call: ast.Call) -> str:
        """A call without arguments of a name with dots, written out; empty for any other."""
        parts, node = [], call.func
        while isinstance(node, ast.Attribute) and len(parts) < 4:
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name) or call.args or call.keywords:
            return ""
        return ".".join([node.id, *reversed(parts)]) + "()"

    def value(self, node: ast.expr) -> Any:
        """The number, text or truth value of an expression."""
        match node:
            case ast.Constant(value=value) if isinstance(value, Value):
                return value
            case ast.Name(id=name) if name in self.values:
                return self.values[name]
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self.number(operand)
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self.number(operand)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return not self.value(operand)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC:
                return self.computed(op, self.value(left), self.value(right))
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in COMPARISONS:
                return COMPARISONS[type(op)](self.value(left), self.value(right))
            case ast.BoolOp(op=op, values=nodes):
                result = self.value(nodes[0])
                for following in nodes[1:]:
                    if bool(result) is isinstance(op, ast.Or):
                        return result
                    result = self.value(following)
                return result
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return self.value(body if self.value(test) else orelse)
            case ast.JoinedStr(values=parts):
                return self.bounded("".join(map(self.formatted, parts)))
            case ast.Call():
                return self.called(node)
        raise self.unread(node)

    def unread(self, node: ast.expr) -> UsageError:
        return UsageError(
            f"{self.name}, line {node.lineno}: {ast.unparse(node)[:200]!r} is not a constant or "
            "arithmetic",
            "bardlet reads such a file without running it; write the value itself",
        )

    def number(self, node: ast.expr) -> Any:
        """The number of an expression; UsageError where it is a text."""
        value = self.value(node)
        if isinstance(value, str):
            raise self.unread(node)
        return value

    def computed(self, op: ast.operator, left: Any, right: Any) -> Any:
        """What an operator makes of two numbers, or of two texts that are joined."""
        texts = isinstance(left, str) + isinstance(right, str)
        if texts == 2 and isinstance(op, ast.Add):
            return self.bounded(left + right)
        if texts:
            raise TypeError("a text and an operator")
        result = ARITHMETIC[type(op)](left, right)
        if abs(result) > LARGEST:
            raise TooLargeError
        return result

    def bounded(self, text: str) -> str:
        if len(text) > LONGEST:
            raise ArithmeticError(f"the text has more than {LONGEST:,} characters")
        return text

    def formatted(self, part: ast.expr) -> str:
        """A part of an f-string."""
        if not isinstance(part, ast.FormattedValue):
            return str(self.value(part))
        spec = part.format_spec
        if spec is None:
            text = ""
        else:
            assert isinstance(spec, ast.JoinedStr)
            text = "".join(
                str(p.value) if isinstance(p, ast.Constant) else "{" for p in spec.values
            )
        if not SPEC.fullmatch(text) or part.conversion not in (-1, ord("s"), ord("r")):
            raise self.unread(part.value)
        value = self.value(part.value)
        return format(repr(value) if part.conversion == ord("r") else value, text)

    def called(self, call: ast.Call) -> Any:
        """What one of the few functions gives that configuration files call."""
        dotted = self.dotted(call)
        if dotted == "time.time()":
            return time.time()
        if dotted in MACHINE:
            return machine_has(dotted)
        name = call.func.id if isinstance(call.func, ast.Name) else ""
        if name not in FUNCTIONS or not call.args or call.keywords or len(call.args) > 20:
            raise self.unread(call)
        values = [self.value(node) for node in call.args]
        if name != "str" and any(isinstance(value, str) for value in values):
            raise self.unread(call)
        if name in ("int", "float", "str", "abs") and len(values) > 1:
            raise self.unread(call)
        if name == "round" and values[1:] and values[1] not in range(MAX_DECIMALS):
            raise self.unread(call)
        return FUNCTIONS[name](*values)

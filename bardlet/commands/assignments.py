"""nanoGPT's configuration files: Python's assignments of constants, read from their syntax.

Nothing is executed: nothing bardlet opens can run code.
"""

from __future__ import annotations

import ast
import operator
import time
from collections.abc import Callable
from typing import Any

from bardlet.config import FIELDS, Value
from bardlet.errors import UsageError

# characters of a line, since Python's TOML takes time quadratic in a key's dots, and of a sum
LONGEST = 4096

ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv,
}  # fmt: skip


def read_assignments(text: str, name: str) -> dict[str, object]:
    """The options that a nanoGPT config file assigns, read from its syntax and never executed.

    Constants, + - * / // on numbers, and names assigned above are understood; a name that is no
    option but is used by a later line is a helper and is left out. Raises UsageError with the
    line where there is anything else.
    """
    values: dict[str, Any] = {}
    used: set[str] = set()

    def value_of(node: ast.expr) -> Any:
        if isinstance(node, ast.Constant) and isinstance(node.value, Value):
            return node.value
        if isinstance(node, ast.Name) and node.id in values:
            used.add(node.id)
            return values[node.id]
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            operand = value_of(node.operand)
            if not isinstance(operand, str):
                return -operand
        # the end of a run's name in nanoGPT's files; writing out other nodes takes quadratic time
        if isinstance(node, ast.Call) and ast.unparse(node) == "str(time.time())":
            return str(time.time())
        if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
            left, right = value_of(node.left), value_of(node.right)
            if isinstance(left, str) and isinstance(right, str) and isinstance(node.op, ast.Add):
                if len(left) + len(right) > LONGEST:
                    problem = f"the text has more than {LONGEST:,} characters"
                    raise UsageError(f"{name}, line {node.lineno}: {problem}")
                return left + right
            if not isinstance(left, str) and not isinstance(right, str):
                result = ARITHMETIC[type(node.op)](left, right)
                if abs(result) <= 10**300:
                    return result
                raise UsageError(f"{name}, line {node.lineno}: the result is too large")
        raise UsageError(
            f"{name}, line {node.lineno}: {ast.unparse(node)[:200]!r} is not a constant or "
            "arithmetic",
            "bardlet reads such a file without running it; write the value itself",
        )

    try:
        for statement in ast.parse(text).body:
            match statement:
                case ast.Assign(targets=[ast.Name(id=target)], value=value):
                    values[target] = value_of(value)
                case ast.Expr(value=ast.Constant()):
                    pass  # a docstring
                case ast.Import(names=[ast.alias(name="time", asname=None)]):
                    pass  # for str(time.time())
                case _:
                    line = f"{name}, line {statement.lineno}"
                    raise UsageError(f"{line}: only lines like `batch_size = 12` are read")
    except (SyntaxError, ArithmeticError, RecursionError, MemoryError, ValueError) as error:
        raise UsageError(f"{name} cannot be read: {error}") from None
    return {key: v for key, v in values.items() if key in FIELDS or key not in used}

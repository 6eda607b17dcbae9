"""A checkpoint in another program's format, published once that program has read it.

A format is a module with four names. `DTYPES` are those of its weights, the default first.
`write(trained, folder, dtype)` fills an empty folder, or writes the `SINGLE_FILE` of the module
into it, which alone is published. `verify(trained, folder, dtype)` has the other program read it,
and returns a Comparison, or why there is none. `next_steps(trained, folder, dtype)` are the
commands that use it. The folder is built under a temporary name and gets its own when all is
verified.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bardlet.errors import CheckpointError, UsageError
from bardlet.interop import load
from bardlet.interop.verify import Comparison
from bardlet.io.atomic import new_file, new_folder

FORMATS = {
    "hf": "huggingface.export", "nanogpt": "nanogpt", "gguf": "gguf.export", "onnx": "onnx",
    "html": "html.export",
}  # fmt: skip


def format_of(name: str, dtype: str | None) -> tuple[Any, str]:
    """The module of a format, and the dtype to write in; UsageError for an unknown one."""
    if name not in FORMATS:
        raise UsageError(f"no format {name!r}", f"Formats are {', '.join(FORMATS)}")
    module = importlib.import_module(f"bardlet.interop.{FORMATS[name]}")
    chosen = next(
        (own for own in module.DTYPES if dtype and plain(own) == plain(dtype)),
        dtype or module.DTYPES[0],
    )
    if chosen not in module.DTYPES:
        raise UsageError(f"{name} has no dtype {chosen!r}", f"Allowed: {', '.join(module.DTYPES)}")
    return module, chosen


def plain(dtype: str) -> str:
    """The name of a dtype as every program would know it: f16 for float16, fp16 and F16."""
    return dtype.lower().replace("float", "f").replace("fp", "f")


def export(
    source: str, out: Path, *, form: str, dtype: str | None, checkpoint: str,
    say: Callable[[str], None], with_text: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Write a model into the new folder or file `out`; return its files and how it compares.

    `source` is a run, with the name of its `checkpoint`, or another source of load.py. `with_text`
    adds the training text, to formats that can hold it. Raises BardletError children, and leaves
    nothing behind, where it cannot be written or the other program does not compute the same.
    """
    module, dtype = format_of(form, dtype)
    file = getattr(module, "SINGLE_FILE", None)
    if with_text and form != "html":
        raise UsageError(f"--with_text is for --format=html, {form} has no place for a text")
    if file and out.suffix.lower() != Path(file).suffix:
        ending = Path(file).suffix
        raise UsageError(f"{out} does not end in {ending}", f"Name a file, such as {out}{ending}")
    if out.exists():
        raise UsageError(f"{out} already exists", "Name a new one, or remove that one")
    trained = load.load_model(source, checkpoint)
    try:
        with new_file(out, file) if file else new_folder(out) as building:
            module.write(trained, building, dtype, **({"with_text": True} if with_text else {}))
            checked = module.verify(trained, building, dtype)
            if isinstance(checked, Comparison):
                checked.check()
    except OSError as error:
        raise CheckpointError(f"cannot write {out}: {error}") from None
    compared = isinstance(checked, Comparison)
    say(str(checked) if compared else f"not compared: {checked}")
    proof = vars(checked) if compared else {"not_compared": checked}
    base, written = (out.parent, [out]) if file else (out, sorted(out.rglob("*")))
    files = {str(each.relative_to(base)): each.stat().st_size for each in written}
    return {
        "out": str(out), "format": form, "dtype": dtype, **proof, "files": files,
        "next": module.next_steps(trained, out, dtype),
    }  # fmt: skip

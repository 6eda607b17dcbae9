"""Presets and configuration files as layers of options: TOML, and nanoGPT's `config/*.py`.

A Python file is read from its syntax and never executed: nothing bardlet opens can run code.
"""

from __future__ import annotations

import functools
import tomllib
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

from bardlet.commands.assignments import LONGEST, read_assignments
from bardlet.commands.derived import Flags, Layer, with_context, with_epochs, without_chain
from bardlet.config import BUILTIN_INIT, TRUTH, TrainConfig, resolve
from bardlet.errors import UsageError, did_you_mean
from bardlet.io.safe_read import read_text
from bardlet.run import run_folder

PRESETS = Path(__file__).parents[1] / "presets"
DEFAULT_PRESET = "shakespeare-char"
PAIRS_PRESET = "chat-dpo"
LARGEST = 1 << 17  # bytes of a file of options


def resolve_settings(
    bases: Sequence[str], flags: Flags, say: Callable[[str], None],
    size: Callable[[Flags], Flags] | None = None, checkpoint: str = "",
) -> TrainConfig:  # fmt: skip
    """The configuration that `bardlet train BASES... --flags` asks for.

    A run that is there already starts from its own options, so that only what is to change need be
    said: with `init_from=resume`, of the newest run if none is named, and where out_dir or the
    dataset alone is given. Without bases a new run has the options that `size` chooses for its
    dataset, by default the one prepared last, and where there is none the default preset's.
    """
    machine = functools.partial(machine_kind, str(flags.get("device", "auto")))
    resume = flags.get("init_from") == "resume"
    anew = "out_dir" not in flags and TRUTH.get(str(flags.get("fresh")).lower(), False)
    if not bases and not resume:
        flags = with_dataset(flags, say)
    if not bases and (resume or "out_dir" in flags):
        out = str(flags.get("out_dir") or newest_run(say))
        own = options_of(Path(out), machine, checkpoint)
        if own and not anew:
            return resolve([*own, ("command line", flags)])
        if resume:
            raise no_run(out)
    if not bases and flags.get("objective") == "dpo":
        bases = [PAIRS_PRESET]
        say(f"objective=dpo: taking the preset {PAIRS_PRESET}")
    if not bases and size is not None and "dataset" in flags:
        layers = [("sized", size(flags))]
    else:
        if not bases:
            say(f"no preset or file named: taking the preset {DEFAULT_PRESET}")
        layers = [layer for b in bases or [DEFAULT_PRESET] for layer in load_layers(b, machine)]
    if str(flags.get("stages")) == "1":
        layers = without_chain(layers, flags)
    config = resolve([*layers, ("command line", flags)])
    if config.init_from not in BUILTIN_INIT:
        config = with_context(config, flags, layers, say)
    if config.init_from != "resume":
        return with_epochs(config, flags, say)
    own = options_of(Path(config.out_dir), machine, checkpoint)
    if not own:
        raise no_run(config.out_dir)
    return resolve([*own, ("command line", {**flags, "init_from": "resume"})])


def with_dataset(flags: Flags, say: Callable[[str], None]) -> Flags:
    """The flags with a dataset, the one prepared last unless they name one, and out/ for its run.

    A run that out_dir names has a dataset already.
    """
    if (
        "dataset" not in flags
        and not (Path(str(flags.get("out_dir", ""))) / "checkpoints").is_dir()
    ):
        newest = newest_folder(Path("data"), "manifest.json")
        if newest is not None:
            say(f"no dataset named: taking the newest one, {newest}")
            flags = {"dataset": newest.name, **flags}
    if "dataset" in flags:
        out = f"out/{Path(str(flags['dataset'])).name}"
        if Path(str(flags.get("init_from", ""))).absolute() == Path(out).absolute():
            out += "-finetuned"  # the model stays as it is
        flags = {"out_dir": out, **flags}
    return flags


def options_of(run: Path, machine: Callable[[], str], checkpoint: str = "") -> list[Layer]:
    """The option layers of a run that is there: those of the checkpoint that is named or else the
    newest one's, which has a checksum, or config.toml's while there is none. Empty where there is
    no run.
    """
    saved = run / "config.toml"
    options = run_folder.saved_options(run, checkpoint)
    if options is not None:
        own: list[Layer] = [(str(run), options)]
    elif saved.is_file():
        own = [*load_layers(str(saved), machine)]
    else:
        return []
    # the folder may have been moved since, and how the run was started is over
    own.append(("", {"fresh": False, "out_dir": str(run)}))
    begun = {name: value for _, layer in own for name, value in layer.items()}.get("init_from")
    if options is not None or begun == "resume":  # else it is to begin from its model again
        own.append(("", {"init_from": "scratch"}))
    return own


def no_run(out: str) -> UsageError:
    if run_folder.checkpoints(Path(out)):
        return UsageError(
            f"{out} has a model that was imported, without the options of a run",
            f"Train it: bardlet train --init_from={out} --dataset=DATA --out_dir=NEW",
        )
    return UsageError(f"no run to resume at {out}", "Name it with --out_dir")


def newest_folder(root: Path, file: str) -> Path | None:
    """The folder in `root` whose `file` was written last, where there is one."""
    paths = sorted(root.glob(f"[!.]*/{file}"), key=lambda path: path.stat().st_mtime)
    return paths[-1].parents[len(Path(file).parts) - 1] if paths else None


def run_named(parsed: Namespace, say: Callable[[str], None]) -> str:
    """The model that a command is to use: a run, nanoGPT's out_dir or init_from, else the newest
    run.
    """
    source = parsed.init_from
    if source in (None, "resume"):
        return str(parsed.run or parsed.out_dir or newest_run(say))
    if source == "scratch":
        raise UsageError("init_from=scratch is a model that is not trained", "Name a run")
    if parsed.run:
        raise UsageError(f"init_from={source} and {parsed.run} name two models", "Give one of them")
    if parsed.out_dir:
        say(f"out_dir={parsed.out_dir} has no effect: init_from={source} is not a run in it")
    return source


def newest_run(say: Callable[[str], None]) -> Path:
    """The run in out/ that was saved last, for commands that name none."""
    newest = newest_folder(Path("out"), "checkpoints/last")
    if newest is None:
        raise UsageError("no run named, and none in out/", "Train one first: bardlet train demo")
    say(f"no run named: taking the newest one, {newest}")
    return newest


def machine_kind(device: str) -> str:
    """ "gpu" or "cpu"; torch is imported here, where a preset asks, and not to print help."""
    from bardlet.system.device import machine_kind

    return machine_kind(device)


def preset_names() -> list[str]:
    """The presets that come with bardlet."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def load_layers(name: str, machine: Callable[[], str]) -> list[tuple[str, dict[str, object]]]:
    """The option layers of a preset's name, or of a path to a .toml or nanoGPT .py file.

    A TOML file's tables [cpu] and [gpu] hold what differs by machine; `machine` says which of the
    two this one is, and is asked only where there is such a table.
    """
    known = name in preset_names()
    path = PRESETS / f"{name}.toml" if known else Path(name)
    if not known and path.suffix not in (".toml", ".py"):
        raise UsageError(
            f"no preset {name!r}",
            f"{did_you_mean(name, preset_names())}Presets are {', '.join(preset_names())}; "
            "a file ends in .toml or .py",
        )
    try:
        text = read_text(path, max_bytes=LARGEST)
        if max(map(len, text.splitlines()), default=0) > LONGEST:
            raise UsageError(f"{name} has a line of more than {LONGEST:,} characters")
        if path.suffix == ".py":
            return [(name, read_assignments(text, name))]
        values = tomllib.loads(text)
    except OSError as error:
        raise UsageError(f"cannot read {name}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{name} is not a TOML file: {error}") from None
    tables = {key: values.pop(key) for key in ("cpu", "gpu") if isinstance(values.get(key), dict)}
    chosen = tables.get(machine(), {}) if tables else {}
    return [(name, values), (name, chosen)]

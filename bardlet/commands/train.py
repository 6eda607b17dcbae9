"""`bardlet train`: the options of a run, resolved and handed to the training loop."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bardlet.commands import settings
from bardlet.commands.configure import configure
from bardlet.commands.eval import best_val_loss
from bardlet.commands.parser import Parser, split_unknown
from bardlet.config import BUILTIN_INIT, FIELDS, TRUTH, TrainConfig
from bardlet.errors import BardletError, UsageError
from bardlet.io.terminal import Progress, log, progress_to, say

if TYPE_CHECKING:
    from bardlet.data.dataset.folder import Dataset
    from bardlet.model import GPT
    from bardlet.train import Replan, Result


def run(parser: Parser, args: list[str]) -> int:
    parser.add_argument(
        "--checkpoint", default="",
        help="with --resume: go back to this one, best or iter-...; what came after it is kept as "
        "a run of its own (default: the newest)",
    )  # fmt: skip
    config, rest = parse_settings(parser, args)
    result = train_and_show(config, log, rest["checkpoint"], rest.get("pace"))
    from bardlet.system.distributed import here

    if result.stopped:
        return 130
    if here().main:
        best = best_val_loss(config, result.best_val_loss, result.train_s, log)
        log(f"best val loss {best}; training took {result.train_s:.1f} s")
        if not config.eval_only:
            log(f"{use_of(config.dataset)} {config.out_dir}")
    return 0


def use_of(dataset: str) -> str:
    """What a model that was trained on this is for, and the command."""
    from bardlet.data.dataset import mixture

    with contextlib.suppress(BardletError):  # of one that is not here
        if mixture.opened(dataset).chat_template:
            return "talk with it: bardlet chat"
    return "write text with it: bardlet sample"


def train_from_python(
    *bases: str | os.PathLike[str], resume: bool = False, budget: str | None = None,
    checkpoint: str = "", progress: Progress = False,
    **options: str | int | float | os.PathLike[str],
) -> Result:  # fmt: skip
    """Train a model, or go on training one, as `bardlet train` does, and return how it ended.

    `bases` are presets or files, `options` any of the command's, such as `dataset="mine"` or
    `max_iters=500`; `resume`, `budget` and `checkpoint` are its flags. `bardlet.load` takes what is
    returned, whose `out_dir` is the run's folder and `best_val_loss` its loss in nats a token.
    `progress` is True to print what the command prints, or a function that gets each line. Raises
    a BardletError for what cannot be trained; Ctrl-C saves the run and returns it as `stopped`.
    """
    flags = {name: os.fspath(value) if isinstance(value, os.PathLike) else value
             for name, value in options.items()}  # fmt: skip
    if resume:
        flags["init_from"] = "resume"
    with progress_to(progress):
        config, pace = configure(
            [os.fspath(base) for base in bases], flags, budget=budget, checkpoint=checkpoint,
            say=say,
        )  # fmt: skip
        return train_as_configured(config, checkpoint, pace)


def train_and_show(
    config: TrainConfig, say: Callable[[str], None], checkpoint_name: str = "",
    pace: Replan | None = None,
) -> Result:  # fmt: skip
    """Train as `config` says; where it names a model, with a sample of it before and after.

    `pace` keeps a sized run to its time.
    """
    from bardlet.system.distributed import here

    shows = here().main and config.init_from not in BUILTIN_INIT and not config.eval_only

    def before() -> None:
        if shows:
            show("before training", config.init_from, config, say)

    result = train_as_configured(config, checkpoint_name, pace, before)
    if shows and not result.stopped:
        show("after training", config.out_dir, config, say)
    return result


def train_as_configured(
    config: TrainConfig, checkpoint_name: str, pace: Replan | None,
    before: Callable[[], None] = lambda: None,
) -> Result:  # fmt: skip
    """Train as `config` says; `before` is called once a model that it names is loaded."""
    from bardlet.interop.pretrained_init import load_pretrained
    from bardlet.planning.chain import train_chain
    from bardlet.serve.snapshots import write_samples
    from bardlet.system.memory import return_freed
    from bardlet.train import train

    def loaded(config: TrainConfig, dataset: Dataset) -> GPT:
        model = load_pretrained(config, dataset)
        before()
        return model

    replan: Replan = pace or (lambda *_: None)

    def train_one(config: TrainConfig) -> Result:
        result = train(
            config, loaded, checkpoint_name=checkpoint_name, replan=replan,
            write_samples=write_samples,
        )  # fmt: skip
        return_freed()  # before models are read again: to be scored, as teachers, or for a sample
        return result

    return train_one(config) if checkpoint_name else train_chain(config, train_one)


def show(when: str, run: str, config: TrainConfig, say: Callable[[str], None]) -> None:
    """Print a short sample of a model; of one that is trained on conversations, an answer."""
    from bardlet.commands.sample import write
    from bardlet.data.dataset import mixture, samples
    from bardlet.serve.model import load

    model = load(run, device=config.device, dtype=config.dtype)
    dataset = mixture.opened(config.dataset)
    if dataset.chat_template:
        for asked in samples.questions(dataset, 1, model.context):
            if max(asked) < model.tokenizer.vocab_size:  # a base model knows no roles
                ends = tuple(dataset.tokenizer.special().values())
                (answer,) = model.complete([model.request(asked, ends=ends, max_new_tokens=100)])
                say(f"an answer {when}:")
                print(f"{dataset.tokenizer.decode(list(asked))}{answer.text}")
        return
    say(f"a sample {when}:")
    write(
        model, start=None, num_samples=1,
        max_new_tokens=100, options={"seed": config.seed % 2**32}, as_json=False, say=say,
    )  # fmt: skip


def parse_settings(parser: Parser, args: list[str]) -> tuple[TrainConfig, dict[str, Any]]:
    """The run that presets, files and flags ask for; every option of a run is a flag.

    What else the parser has comes back beside it, and the `pace` of a run with a budget.
    """
    others = {action.dest for action in parser._actions}
    parser.usage = f"{parser.prog} [PRESET | FILE.toml | FILE.py ...] [--option=value ...]"
    parser.epilog = "presets: " + ", ".join(settings.preset_names())
    parser.add_argument("base", nargs="*", default=[], help="presets or files, later ones win")
    parser.add_argument("--resume", action="store_true", help="short for --init_from=resume")
    parser.add_argument(
        "--budget", metavar="TIME",
        help="without preset or file: the time that the run is sized for, such as 90s, 10m or 2h "
        "(default 5m); with --resume: how much longer it trains",
    )  # fmt: skip
    group: Any = parser
    for name, field in FIELDS.items():
        if field.metadata["group"]:
            group = parser.add_argument_group(field.metadata["group"])
        text = f"{field.metadata['help']} (default {field.default})".replace("%", "%%")
        bare = {"nargs": "?", "const": "true"} if field.type == "bool" else {}
        choices = "{" + ",".join(map(str, field.metadata["choices"])).lower() + "}"
        metavar = choices if field.metadata["choices"] else field.type.split(" ")[0].upper()
        group.add_argument(f"--{name}", metavar=metavar, help=text, **bare)
    known, unknown = split_unknown(parser, spelt_out(args))
    flags = vars(parser.parse_args(known))
    bases = flags.pop("base")
    if flags.pop("resume", False):
        flags["init_from"] = "resume"
    budget = flags.pop("budget", None)
    rest = {name: flags.pop(name) for name in others & flags.keys()}
    checkpoint = rest.get("checkpoint", "")
    alone = os.environ.get("RANK", "0") == "0"  # of torchrun's processes one speaks
    config, rest["pace"] = configure(
        bases, {**flags, **unknown}, budget=budget, checkpoint=checkpoint,
        say=say if alone else lambda _: None,
    )  # fmt: skip
    return config, rest


def parse_timed(
    parser: Parser, args: list[str], seconds: float, of: str
) -> tuple[TrainConfig, dict[str, Any]]:
    """The run to try out, and the parser's other options: `seconds` of it, `json` as output."""
    parser.add_argument("--seconds", type=float, default=seconds, help=of)
    parser.add_argument("--json", action="store_true", default=False, help="machine-readable")
    config, rest = parse_settings(parser, args)
    if not 0 < rest["seconds"] <= 3600:
        raise UsageError(f"seconds={rest['seconds']} must be above 0, and at most 3600")
    return config, rest


def spelt_out(args: list[str]) -> list[str]:
    """The arguments with `--fresh` as `--fresh=true`, so that it does not swallow a preset."""
    flags = {f"--{name}" for name, field in FIELDS.items() if field.type == "bool"}
    follows = [*args, ""][1:]
    return [
        f"{arg}=true" if arg in flags and after.lower() not in TRUTH else arg
        for arg, after in zip(args, follows, strict=True)
    ]

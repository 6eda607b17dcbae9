"""In: the model and tokenizer of a source, in any of the formats that are read.

A source is a run or checkpoint of bardlet, a folder of transformers' (config.json, safetensors,
tokenizer.json), a GGUF file, nanoGPT's ckpt.pt or the folder with it, or the name of a model on
the hub.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from bardlet import lora
from bardlet.data.dataset import nanogpt as nanogpt_data
from bardlet.data.tokenizers import base as tokenizers
from bardlet.data.tokenizers import factory, forms
from bardlet.data.tokenizers.base import Tokenizer
from bardlet.errors import DataError, UsageError
from bardlet.interop import (
    end_of_text,
    nanogpt,
    nanogpt_dataset,
    nanogpt_state,
    origin,
    tensor_names,
)
from bardlet.interop.gguf import model as gguf_model
from bardlet.interop.huggingface import config as hf_config
from bardlet.interop.huggingface import files as hf_files
from bardlet.interop.verify import Trained
from bardlet.io.terminal import say
from bardlet.model import GPT, GPTConfig
from bardlet.run import checkpoint, run_folder
from bardlet.run.state import DatasetRef, Imported, RunState
from bardlet.system.optional_deps import need, reason

HUB_NAMES = {name: f"openai-community/{name}"
             for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")}  # fmt: skip
HUB_CONTEXT = 1024  # of these
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
HUB_FILES = ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
             "tokenizer.model", "vocab.json", "merges.txt",
             "*.safetensors", "model.safetensors.index.json"]  # fmt: skip


def load_model(
    source: str, checkpoint_name: str = "best", *, block_size: int = 0, dropout: float | None = None
) -> Trained:
    """The model, on the CPU in float32, and the tokenizer of a source.

    `checkpoint_name` is that of a run's: best, last or iter-... `block_size` crops the context,
    `dropout` is what it is trained with from here on. Raises UsageError where there is no such
    source, CheckpointError or DataError where its files are damaged, do not fit each other, or
    are of an unknown architecture.
    """
    trained = read(source, checkpoint_name)
    have = trained.model.config
    if block_size > have.block_size:
        raise UsageError(
            f"block_size={block_size} is above the {have.block_size} of {source}",
            f"Give at most --block_size={have.block_size}",
        )
    config = dataclasses.replace(
        have, block_size=block_size or have.block_size,
        dropout=have.dropout if dropout is None else dropout,
    )  # fmt: skip
    if config == have:
        return trained
    shape = {"block_size": config.block_size, "dropout": config.dropout}
    options = {**trained.state.config, **shape} if trained.state.config else {}
    return dataclasses.replace(
        trained, model=reshaped(trained.model, config),
        moments=nanogpt_state.cropped(trained.moments, config.block_size),
        state=dataclasses.replace(trained.state, config=options),
    )  # fmt: skip


def read(source: str, checkpoint_name: str) -> Trained:
    """The source as it is."""
    path = Path(source)
    if path.suffix == ".pt":
        return from_nanogpt(path)
    if path.suffix == ".gguf":
        about = Imported(source=source, chat_template=gguf_model.chat_template(path))
        return imported(about, *gguf_model.read(path))
    if not path.exists() and is_hub_name(source):
        return from_folder(download(HUB_NAMES.get(source, source)), source)
    other = foreign_file(path)
    if other is not None:
        if not run_folder.is_run(path):
            if (path / "checkpoints").is_dir():
                say(f"the run in {path} has no checkpoint yet: taking {other}, which is older")
            return from_nanogpt(other) if other.suffix == ".pt" else from_folder(path, source)
        say(f"taking the run that was trained in {path}, not {other}, which is of another program")
    folder = run_folder.find(path, checkpoint_name)
    model, tokenizer, state = checkpoint.load(folder)
    lora.merge(model)
    run = folder.parent.parent if folder.parent.name == "checkpoints" else folder
    return Trained(
        name=run.resolve().name, source=str(folder), model=model.float().eval(),
        tokenizer=tokenizer, state=state,
    )  # fmt: skip


def foreign_file(folder: Path) -> Path | None:
    """The file by which a folder holds a model of another program: nanoGPT's or transformers'."""
    if (folder / "ckpt.pt").is_file():
        return folder / "ckpt.pt"
    if (folder / "config.json").is_file() and not (folder / "state.json").is_file():
        return folder / "config.json"
    return None


def is_hub_name(source: str) -> bool:
    """Whether this names a model of the hub, and not a file or folder that was mistyped."""
    owner, slash, _ = source.partition("/")
    if not slash:
        return source in HUB_NAMES
    return HUB_NAME.fullmatch(source) is not None and not Path(owner).exists()


def download(name: str) -> Path:
    """The folder with a model of the hub, from its cache where that has it."""
    hub = need("huggingface_hub", "hf", f"{name}, which is not a file here,")
    try:
        return Path(hub.snapshot_download(name, allow_patterns=HUB_FILES))
    except Exception as error:  # its own, and those of its network library
        raise UsageError(
            f"{name} is not a file here, and the hub does not give it: {reason(error)}",
            "Without a network, give the folder of a model that you have",
        ) from None


def from_folder(folder: Path, name: str) -> Trained:
    """The model of a folder of transformers'."""
    document = hf_files.read_json(folder / "config.json")
    config = hf_config.from_hf(document, folder / "config.json")
    theirs = hf_files.read_tensors(folder)
    if not config.llama and "wte.weight" in theirs:  # OpenAI's own names
        theirs = {n if n == tensor_names.HEAD else f"transformer.{n}": t for n, t in theirs.items()}
    weights = tensor_names.join(config, theirs, "hf", folder)
    path = forms.find(folder)
    if path.name != forms.TOKENIZER:
        tokenizer = factory.of_file(path)
    elif path.is_file():  # in the hub's cache a link to a file elsewhere
        tokenizer = tokenizers.load(path.resolve(), folder)
    else:
        tokenizer = assumed(config, folder)
    tokenizer = end_of_text.without_tokens(tokenizer, config.vocab_size)
    config, weights = end_of_text.without_row(config, weights, tokenizer.vocab_size)
    ends = {k: v for k, v in document.items() if k in ("bos_token_id", "eos_token_id")}
    ends = {k: v for k, v in ends.items() if not (type(v) is int and v >= tokenizer.vocab_size)}
    about = Imported(source=name, token_ids=ends, chat_template=hf_files.chat_template(folder))
    return imported(about, tensor_names.build(config, weights), tokenizer)


def from_nanogpt(path: Path) -> Trained:
    """The model of nanoGPT's ckpt.pt, with the tokenizer of its dataset or else GPT-2's."""
    if not path.is_file():
        raise UsageError(f"no file at {path}")
    config, weights, dataset = nanogpt.read(path)
    meta = next((p for p in meta_files(path, dataset) if p.is_file()), None)
    own = path.parent / "tokenizer.json"
    if own.is_file():
        tokenizer = tokenizers.load(own)
    else:
        tokenizer = nanogpt_data.of_meta(meta) if meta else assumed(config, path)
    about = Imported(source=str(path), dataset=Path(dataset).name)
    trained = imported(about, tensor_names.build(config, weights), tokenizer)
    progress = nanogpt_state.read(nanogpt.load(path), config)
    options = {**progress.options, **({"dataset": about.dataset} if progress.options else {})}
    sizes = [progress.options.get(n, 0) for n in ("batch_size", "gradient_accumulation_steps")]
    sequences = progress.iter * sizes[0] * sizes[1]
    state = dataclasses.replace(
        trained.state, iter=progress.iter, best_val_loss=progress.best_val_loss,
        tokens=sequences * config.block_size, sequences=sequences or None, config=options,
    )  # fmt: skip
    return dataclasses.replace(trained, state=state, moments=progress.moments)


def meta_files(path: Path, dataset: str) -> list[Path]:
    """Where the meta.pkl of a ckpt.pt may lie: beside it, or in the data of nanoGPT's folder."""
    folders = [path.parent]
    if dataset and Path(dataset).name == dataset:
        folders += [origin.nanogpt_folder(path) / "data" / dataset, Path("data") / dataset]
    return [folder / "meta.pkl" for folder in folders]


def assumed(config: GPTConfig, source: Path) -> Tokenizer:
    """GPT-2's tokenizer, for a model with its vocabulary and without a tokenizer."""
    if config.llama or config.vocab_size not in nanogpt_dataset.GPT2_VOCABULARY:
        raise DataError(
            f"{source} comes without a tokenizer, and its vocabulary of {config.vocab_size} is not "
            "GPT-2's",
            "Put its tokenizer.json, or nanoGPT's meta.pkl, beside the weights",
        )
    return factory.existing("gpt2")


def imported(about: Imported, model: GPT, tokenizer: Tokenizer) -> Trained:
    """A model from elsewhere with the state of a checkpoint.

    Raises DataError where the tokenizer has more ids than the model.
    """
    if tokenizer.vocab_size > model.config.vocab_size:
        raise DataError(
            f"the tokenizer of {about.source} has {tokenizer.vocab_size:,} tokens, its model's "
            f"vocabulary {model.config.vocab_size:,}: it belongs to another model"
        )
    state = RunState(
        iter=0, tokens=0, dataset=DatasetRef(name="", hash=""), scaler={},
        imported=about,
    )  # fmt: skip
    source = about.source
    name = Path(source).stem if source.endswith(".pt") else Path(source).name
    return Trained(
        name=name, source=source, model=model.eval(), tokenizer=tokenizer, state=state
    )  # fmt: skip


def reshaped(model: GPT, config: GPTConfig) -> GPT:
    """The model with another dropout or a shorter context, whose first positions stay."""
    weights = {name: p.detach() for name, p in model.named_parameters()}
    if not config.llama:
        name = "transformer.wpe.weight"
        weights[name] = weights[name][: config.block_size].clone()
    return tensor_names.build(config, weights).eval()


def save(trained: Trained, out: Path) -> Path:
    """Write an imported model as the run `out`, which must be new; return its checkpoint."""
    if out.exists():
        raise UsageError(f"{out} already exists", "Name a new folder, or remove that one")
    state = origin.with_dataset(trained).state
    if state.iter and not trained.moments:
        say(f"{trained.source} has no optimizer state that fits: training begins with a fresh one")
    optimizers = nanogpt_state.optimizer_of(trained.model, trained.moments)
    folder = checkpoint.save(out, trained.model, optimizers, trained.tokenizer, state)
    for name in ("last", "best"):
        run_folder.set_pointer(out, name, folder)
    return folder

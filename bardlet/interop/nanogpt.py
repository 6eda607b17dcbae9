"""nanoGPT's ckpt.pt, in and out: the gpt2 family under the names that it shares with ours."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bardlet.errors import CheckpointError
from bardlet.interop import nanogpt_dataset, nanogpt_state, tensor_names
from bardlet.interop.tensor_names import EMBEDDING, HEAD
from bardlet.interop.verify import Comparison, Moments, Trained
from bardlet.model import GPTConfig
from bardlet.run import checkpoint
from bardlet.run.state import RunState
from bardlet.system.optional_deps import reason

DTYPES = ("float32",)
SHAPE = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size", "bias", "dropout")
COMPILED = "_orig_mod."  # torch.compile's prefix of names
MASKS = ".attn.bias"  # a buffer of nanoGPT without flash attention, and of early versions


def write(trained: Trained, folder: Path, dtype: str) -> None:
    """Write ckpt.pt and, for characters, meta.pkl, which belongs into nanoGPT's data/NAME."""
    config = trained.model.config
    check_supported(config)
    weights = {name: p.detach().contiguous() for name, p in trained.model.named_parameters()}
    weights[HEAD] = weights[EMBEDDING]  # one matrix, which is written once
    torch.save(
        {
            "model": weights,
            "optimizer": nanogpt_state.write(
                trained.model, moments_of(trained), trained.state.config
            ),
            "model_args": {name: getattr(config, name) for name in SHAPE},
            "iter_num": trained.state.iter,
            "best_val_loss": best_val_loss(trained.state),
            "config": {"dataset": dataset_name(trained), **options_of(trained)},
        },
        folder / "ckpt.pt",
    )
    nanogpt_dataset.write_vocabulary(trained.tokenizer, folder)


def best_val_loss(state: RunState) -> float:
    """The lowest validation loss so far, as nanoGPT keeps it."""
    known = [state.best_val_loss, state.scores.val_loss if state.scores else None]
    return min([loss for loss in known if loss is not None], default=nanogpt_state.UNMEASURED)


def options_of(trained: Trained) -> dict[str, Any]:
    """The options of a run that nanoGPT has, too."""
    config = trained.state.config
    return {name: config[name] for name in nanogpt_state.OPTIONS if name in config}


def moments_of(trained: Trained) -> Moments:
    """AdamW's state of a run; empty where another optimizer trained it, or adapters."""
    if trained.moments or not (Path(trained.source) / checkpoint.OPTIMIZER).is_file():
        return trained.moments
    moments = checkpoint.read_moments(Path(trained.source))
    parameters = dict(trained.model.named_parameters())
    whole = moments.keys() == parameters.keys()
    return moments if whole and all("exp_avg" in m for m in moments.values()) else {}


def dataset_name(trained: Trained) -> str:
    """What nanoGPT calls the dataset of a model, of a mixture the first; else the run's name."""
    imported = trained.state.imported
    name = trained.state.dataset.name or (imported.dataset if imported else "")
    return Path(name.split(",")[0].rpartition(":")[0] if "," in name else name).name or trained.name


def next_steps(trained: Trained, folder: Path, dtype: str) -> list[str]:
    """The commands that use the export, in nanoGPT's folder."""
    data, out = f"data/{dataset_name(trained)}", shlex.quote(str(folder.resolve()))
    place = shlex.quote(data)
    copy = [f"mkdir -p {place} && cp {out}/meta.pkl {place}/meta.pkl"]
    sample = f"python sample.py --out_dir={out} --device=cpu"
    return [*copy * (folder / "meta.pkl").is_file(), sample]


def check_supported(config: GPTConfig) -> None:
    """Raise CheckpointError for a model that nanoGPT does not have."""
    values = {"family": config.family, "mlp_dim": config.mlp_size, "norm_eps": config.norm_eps,
              "gelu_approximate": config.gelu_approximate}  # fmt: skip
    theirs = {"family": "gpt2", "mlp_dim": 4 * config.n_embd, "norm_eps": 1e-5,
              "gelu_approximate": "none"}  # fmt: skip
    problems = [f"{name}={value}" for name, value in values.items() if value != theirs[name]]
    if problems:
        raise CheckpointError(
            f"nanoGPT has no model with {', '.join(problems)}",
            "Export it with --format=hf, or train one of family gpt2 for it",
        )


def verify(trained: Trained, folder: Path, dtype: str) -> Comparison | str:
    """Read the file again: nanoGPT is a script, not a package that could be imported."""
    config, weights, _ = read(folder / "ckpt.pt")
    own = dict(trained.model.named_parameters())
    same = all(getattr(config, name) == getattr(trained.model.config, name) for name in SHAPE)
    if not same or any(not torch.equal(weights[name], own[name]) for name in own):
        raise CheckpointError(f"{folder / 'ckpt.pt'} does not read back as it was written")
    again = nanogpt_state.read(load(folder / "ckpt.pt"), config)
    moments = moments_of(trained)
    if again.iter != trained.state.iter or any(
        not torch.equal(again.moments.get(name, {}).get(what, torch.empty(0)), value)
        for name, state in moments.items()
        for what, value in state.items()
    ):
        raise CheckpointError(f"{folder / 'ckpt.pt'} has another optimizer state than was written")
    said = "nanoGPT is not a package, but the weights read back are equal bit for bit"
    tokenizer = trained.tokenizer
    if not (nanogpt_dataset.is_gpt2(tokenizer) or nanogpt_dataset.is_list_of_names(tokenizer)):
        said += "; its sample.py encodes a prompt character by character"
    if trained.state.iter and not moments:
        said += "; it has no state of AdamW, so training goes on there with a fresh one"
    return said


def read(path: Path) -> tuple[GPTConfig, dict[str, Tensor], str]:
    """The configuration, our float32 tensors and the dataset's name of a ckpt.pt.

    Raises CheckpointError where it is damaged, holds more than plain values and tensors, or its
    tensors do not fit its model_args.
    """
    saved = load(path)
    config, tensors = read_config(saved, path), plain_dict(saved.get("model"))
    tensors = {name.removeprefix(COMPILED): t for name, t in tensors.items()}
    tensors = {n: t for n, t in tensors.items() if not (n.endswith(MASKS) and t.dim() == 4)}
    tensors = tensor_names.match_tensors(
        tensor_names.shapes(config), tensors, tied=(HEAD, EMBEDDING), source=path
    )  # fmt: skip
    weights = {name: t.to(torch.float32, copy=True) for name, t in tensors.items()}
    return config, weights, str(plain_dict(saved.get("config")).get("dataset", ""))


def read_config(saved: dict[str, Any], path: Path) -> GPTConfig:
    """The configuration in the content of a ckpt.pt."""
    args, tensors = plain_dict(saved.get("model_args")), plain_dict(saved.get("model"))
    if not args or not tensors or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise CheckpointError(
            f"{path} is not a checkpoint of nanoGPT: it has no model and model_args"
        )
    # the oldest checkpoints do not say that they have biases
    config = GPTConfig(**{"bias": True, **{name: args[name] for name in SHAPE if name in args}})
    problems = tensor_names.contradictions(config)
    if type(config.bias) is not bool or type(config.dropout) not in (int, float):
        problems.append(f"bias={config.bias!r}, dropout={config.dropout!r}")
    if problems:
        raise CheckpointError(f"{path}: its model_args are invalid: {'; '.join(problems)}")
    return config


def plain_dict(value: object) -> dict[str, Any]:
    """The value if it is a dict with strings as keys, else an empty one."""
    named = isinstance(value, dict) and all(isinstance(key, str) for key in value)
    return value if named else {}  # pyright: ignore[reportReturnType]


def load(path: Path) -> dict[str, Any]:
    """The content of a file of torch.save, tensors and plain values only."""
    try:
        saved = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # of torch, pickle and zip files, by what is wrong
        raise CheckpointError(
            f"{path} cannot be read: {reason(error)}",
            "It must hold tensors and plain values only, as nanoGPT's train.py writes them",
        ) from None
    return plain_dict(saved)

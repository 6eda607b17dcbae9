"""Out to transformers: a folder that AutoModelForCausalLM and AutoTokenizer load as it is."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from bardlet.errors import CheckpointError
from bardlet.interop import end_of_text, tensor_names
from bardlet.interop.chat_template import chat_template, end_of_turn
from bardlet.interop.huggingface.config import to_hf
from bardlet.interop.huggingface.model_card import model_card
from bardlet.interop.verify import Comparison, Trained, compare
from bardlet.io.atomic import write_json, write_text
from bardlet.model import GPT
from bardlet.system.optional_deps import has, need, reason

DTYPES = ("float32", "bfloat16", "float16")


def write(trained: Trained, folder: Path, dtype: str) -> None:
    """Write the model, its tokenizer and its card into `folder`."""
    kind = getattr(torch, dtype)
    parameters = rounded(trained.model, kind)
    config, weights = tensor_names.with_zero_biases(trained.model.config, parameters)
    if lacks_end(trained) and trained.tokenizer.vocab_size == config.vocab_size:
        config, weights = end_of_text.add_row(config, weights)
    ends = token_ids(trained)
    write_json(folder / "config.json", {**to_hf(config), "dtype": dtype, **ends})
    write_json(folder / "generation_config.json", {**ends, **stops(trained, ends)})
    tensors = {n: t.to(kind) for n, t in tensor_names.split(config, weights, "hf").items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    write_text(folder / "tokenizer.json", tokenizer_json(trained))
    write_json(folder / "tokenizer_config.json", tokenizer_config(trained))
    write_text(folder / "README.md", model_card(trained))


def rounded(model: GPT, dtype: torch.dtype) -> dict[str, Tensor]:
    """The model's weights as they are in `dtype`, in float32. CheckpointError where one does not
    fit.
    """
    weights = {name: p.detach() for name, p in model.named_parameters()}
    largest = torch.finfo(dtype).max
    if beyond := [n for n, p in weights.items() if p.numel() and p.abs().max() > largest]:
        raise CheckpointError(f"{beyond[0]} has weights beyond {dtype}", "Export as bfloat16")
    return {name: p.to(dtype).float() for name, p in weights.items()}


def lacks_end(trained: Trained) -> bool:
    """Whether nothing ends a text: neither a token between texts, nor one of an imported model."""
    return trained.tokenizer.end_of_text is None and not own_ids(trained)


def own_ids(trained: Trained) -> dict[str, Any]:
    """The ids of an imported model's special tokens by their names; empty where it has none."""
    ids = trained.state.imported.token_ids if trained.state.imported else {}
    return dict(ids) if any(i is not None for i in ids.values()) else {}


def token_ids(trained: Trained) -> dict[str, Any]:
    """The ids that begin, end and pad a text: an imported model's own, or what stands between
    texts, or else a token that nothing is encoded to: evaluation harnesses need one.
    """
    end = trained.tokenizer.vocab_size if lacks_end(trained) else trained.tokenizer.end_of_text
    return {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end, **own_ids(trained)}


def stops(trained: Trained, ends: dict[str, Any]) -> dict[str, Any]:
    """The tokens that end what is written: also that of a turn, for a model of conversations."""
    turn, end = end_of_turn(trained), ends["eos_token_id"]
    every = [*(end if isinstance(end, list) else [end]), turn]
    return {} if turn is None else {"eos_token_id": list(dict.fromkeys(every))}


def tokenizer_config(trained: Trained) -> dict[str, Any]:
    """What AutoTokenizer must know beside tokenizer.json: to leave the text as it is."""
    special = special_tokens(trained)
    named = {
        name.removesuffix("_id"): special[i]
        for name, i in token_ids(trained).items()
        if isinstance(i, int) and i in special
    }
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": trained.model.config.block_size,
        "clean_up_tokenization_spaces": False,
        "chat_template": chat_template(trained),
        **named,
    }


def tokenizer_json(trained: Trained) -> str:
    """The tokenizer, with the token that `token_ids` adds."""
    text = trained.tokenizer.to_json()
    if not lacks_end(trained):
        return text
    return end_of_text.with_token(text, trained.tokenizer.vocab_size)


def special_tokens(trained: Trained) -> dict[int, str]:
    """The tokens that no text is encoded to, by id."""
    document = json.loads(tokenizer_json(trained))
    return {token["id"]: token["content"] for token in document.get("added_tokens", [])}


def verify(trained: Trained, folder: Path, dtype: str) -> Comparison | str:
    """Compare with transformers' model and tokenizer of the folder, both computing in float32."""
    if not has("transformers"):
        return "transformers is not installed (pip install 'bardlet[hf]')"
    with quiet() as transformers:
        try:
            model = transformers.AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32
            ).eval()
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        except Exception as error:
            raise CheckpointError(f"transformers cannot read the export: {reason(error)}") from None
        check_tokenizer(trained, tokenizer)
        program = f"transformers {transformers.__version__} {type(model).__name__}"
        rows = trained.model.config.vocab_size  # the export may have one more
        if dtype != "float32":  # then with what was written
            weights = rounded(trained.model, getattr(torch, dtype))
            model_of = tensor_names.build(trained.model.config, weights)
            trained = dataclasses.replace(trained, model=model_of)
        return compare(trained, program, lambda idx: model(input_ids=idx).logits[..., :rows])


def check_tokenizer(trained: Trained, theirs: Any) -> None:
    """Raise CheckpointError where their tokenizer does not do what ours does, for every token."""
    ours = trained.tokenizer
    special = special_tokens(trained)
    text = ours.decode([i for i in range(ours.vocab_size) if i not in special])
    encoded = theirs.encode(text, add_special_tokens=False)
    if encoded != ours.encode(text).tolist():
        raise CheckpointError("transformers' tokenizer finds other tokens", "Nothing was written")
    if theirs.decode(encoded) != ours.decode(np.array(encoded)):
        raise CheckpointError("transformers' tokenizer writes other text", "Nothing was written")


def next_steps(trained: Trained, folder: Path, dtype: str) -> list[str]:
    """The command that writes text with transformers."""
    code = (
        "from transformers import pipeline; "
        f"print(pipeline('text-generation', {str(folder)!r})('PROMPT')[0]['generated_text'])"
    )
    plain = not set(code) & set('"\\$`!')
    return [f'python -c "{code}"' if plain else f"python -c {shlex.quote(code)}"]


@contextlib.contextmanager
def quiet() -> Iterator[Any]:
    """transformers, without its progress bars and advice while this lasts."""
    transformers = need("transformers", "hf", "comparing with transformers")
    logging = transformers.utils.logging
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield transformers
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def push(folder: Path, name: str) -> str:
    """Upload an exported folder as the hub's model `name`, private if it is new; its address."""
    hub = need("huggingface_hub", "hf", "--push")
    try:
        address = hub.create_repo(name, private=True, exist_ok=True)
        hub.upload_folder(repo_id=name, folder_path=folder, commit_message="Export from bardlet")
    except (hub.errors.HfHubHTTPError, hub.errors.HFValidationError, OSError) as error:
        raise CheckpointError(
            f"cannot upload to {name}: {reason(error)}",
            f"{folder} is whole; `hf auth login` signs in",
        ) from None
    return str(address)

"""Out to llama.cpp and Ollama: a GGUF file, and the Modelfile that gives it a name in Ollama."""

from __future__ import annotations

import copy
import itertools
import re
import shlex
from pathlib import Path

import torch
from torch import Tensor

from bardlet.errors import CheckpointError
from bardlet.interop.chat_template import chat_template, end_of_turn, ollama_template
from bardlet.interop.gguf import file as gguf_file
from bardlet.interop.gguf import llamacpp
from bardlet.interop.gguf import model as gguf_model
from bardlet.interop.gguf import vocab as gguf_vocab
from bardlet.interop.gguf.model import FILE_TYPE
from bardlet.interop.verify import GREEDY_TOKENS, Comparison, Trained, greedy_equal
from bardlet.model import GPT
from bardlet.run.checkpoint import write_text
from bardlet.sample import generate
from bardlet.sampling.filters import Sampling
from bardlet.system.optional_deps import has

DTYPES = tuple(FILE_TYPE)
# bound of what rounding to the nearest changes a matrix by, relative to its norm: half of the last
# bit, or in each block all weights but the largest by half a step of 1/127 or 1/8 of that one
ROUNDING = {"F32": 0.0, "F16": 5e-4, "BF16": 2e-3, "Q8_0": 0.022, "Q6_K": 0.1, "Q4_K_M": 0.25,
            "Q4_0": 0.35}  # fmt: skip
# of logits, in their standard deviations. llama.cpp rounds activations to the dtype of the matrix
# that they are multiplied by, with Q4_0 and K-quants to eight bits; the largest measured, in
# SmolLM2 and in random models: 1.2e-5, 0.006, 0.06, 0.23, 0.22, 0.36, 0.21.
TOLERANCE = {"F32": 1e-4, "F16": 0.02, "BF16": 0.15, "Q8_0": 0.5, "Q6_K": 0.8, "Q4_K_M": 0.8,
             "Q4_0": 0.5}  # fmt: skip
# the lowest of gpt2: llama.cpp looks GELU, approximated by tanh, up in a table of float16
GELU_TOLERANCE = 0.02
# Ollama's own defaults draw from other tokens: these are those of `bardlet sample`
PARAMETERS = {"temperature": 0.8, "top_k": 200, "top_p": 1.0, "min_p": 0.0, "repeat_penalty": 1.0}
MAX_NEW_TOKENS = 500


def write(trained: Trained, folder: Path, dtype: str) -> None:
    """Write the model with its tokenizer, and a Modelfile, into `folder`."""
    path = file_in(trained, folder, dtype)
    template = chat_template(trained, for_transformers=False)
    gguf_model.write(
        path, trained.model, trained.tokenizer, dtype, template, end_of_turn(trained)
    )  # fmt: skip
    write_text(folder / "Modelfile", modelfile(trained, path.name))


def modelfile(trained: Trained, file: str) -> str:
    """What `ollama create` reads: the template, and the settings of `bardlet sample`."""
    template = ollama_template(trained)
    lines = [f"FROM ./{file}", *([f'TEMPLATE """{template}"""'] if template else [])]
    parameters = {
        **PARAMETERS, "num_predict": MAX_NEW_TOKENS, "num_ctx": trained.model.config.block_size
    }  # fmt: skip
    lines += [f"PARAMETER {name} {value}" for name, value in parameters.items()]
    if (turn := end_of_turn(trained)) is not None:
        lines.append(f'PARAMETER stop "{trained.tokenizer.tokens()[turn].decode()}"')
    return "\n".join(lines) + "\n"


def next_steps(trained: Trained, folder: Path, dtype: str) -> list[str]:
    """The commands that use the export: in Ollama, and in llama.cpp without a chat around it."""
    file = file_in(trained, folder, dtype)
    name = re.sub(r"[^a-z0-9._-]", "-", trained.name.lower()).strip("-._") or "bardlet"
    modelfile, path = (shlex.quote(str(p)) for p in (folder / "Modelfile", file))
    return [
        f"ollama create {name} -f {modelfile}",
        f"ollama run {name}",
        f"llama-cli -m {path} -no-cnv -p PROMPT",
    ]


def file_in(trained: Trained, folder: Path, dtype: str) -> Path:
    """The model's file in `folder`, named as llama.cpp's users name theirs."""
    name = Path(trained.name).name.removesuffix(".gguf")
    return folder / f"{re.sub(r'[^A-Za-z0-9._-]', '-', name)}-{dtype}.gguf"


def verify(trained: Trained, folder: Path, dtype: str) -> Comparison | str:
    """Read the file back, and compare llama.cpp's results with those of our model of its weights.

    CheckpointError where these differ from the model's own by more than `dtype` rounds.
    """
    path = file_in(trained, folder, dtype)
    stored = rounded(trained.model, gguf_model.read(path)[0], dtype)
    if not has(llamacpp.PACKAGE):
        return f"{llamacpp.PACKAGE} is not installed (pip install 'bardlet[gguf]')"
    tolerance = max(TOLERANCE[dtype], 0.0 if stored.config.llama else GELU_TOLERANCE)
    return compare(trained, stored, path, tolerance)


def rounded(model: GPT, read: GPT, dtype: str) -> GPT:
    """`model` with the weights that were `read` from its file; CheckpointError where one differs
    by more than `dtype` rounds."""
    weights = dict(read.named_parameters())
    rounded = copy.deepcopy(model)
    with torch.no_grad():
        for name, p in rounded.named_parameters():
            now = weights.get(name, torch.zeros(1))  # biases that are all zero are not read
            error = float((now - p).norm() / p.norm().clamp_min(1e-30))
            if not error <= ROUNDING[dtype]:
                raise CheckpointError(f"{dtype} changes {name} by {error:.2g} of its size")
            p.copy_(now)
    return rounded


def compare(trained: Trained, model: GPT, path: Path, tolerance: float) -> Comparison:
    """How llama.cpp's tokens and logits differ from those of `model`.

    It continues 16 tokens that the model drew by 50 greedy ones, which should be the likeliest for
    ours too. The tolerance is in standard deviations of the logits.
    """
    tokenizer, size = trained.tokenizer, model.config.block_size
    first = torch.zeros(1, dtype=torch.int64)
    plainly = Sampling(temperature=1.0)
    drawn = generate(trained.model, first, max_new_tokens=min(16, size // 2), sampling=plainly)
    prompt = torch.cat((first, *drawn))  # (P,)
    count = min(GREEDY_TOKENS, size - len(prompt))
    metadata = gguf_file.read(path).metadata
    plain = {*gguf_vocab.of_type(metadata, gguf_vocab.NORMAL)}
    text = tokenizer.decode(sorted(plain))
    try:
        answer = llamacpp.ask(path, text=text, prompt=prompt.tolist(), count=count)
    except llamacpp.LlamaCppError as error:
        raise CheckpointError(f"llama.cpp cannot run the export: {error}") from None
    if answer.words != tokenizer.encode(text).tolist():
        raise CheckpointError("llama.cpp's tokenizer finds other tokens", "Nothing was written")
    if plain.issuperset(answer.ids):
        written = tokenizer.decode(answer.ids)
        if answer.text != written and "\ufffd" not in written:  # which both write for bad bytes
            raise CheckpointError(f"llama.cpp writes {answer.text!r} for {written!r}")
    # a token beyond the model's rows ends the comparison, which fails then
    ids = list(itertools.takewhile(lambda i: i < model.config.vocab_size, answer.ids))
    chosen = torch.tensor(ids, dtype=torch.int64)  # (N,)
    idx = torch.cat((prompt, chosen))[None]  # (1, P + N)
    with torch.no_grad():
        logits = model(idx, idx)[0][0, len(prompt) - 1 :]  # (N + 1, V), the last for what follows
    tolerance *= float(logits.std())
    # llama.cpp stops after a token that ends texts
    ended = bool(ids) and ids[-1] in gguf_vocab.of_type(metadata, gguf_vocab.CONTROL)
    return Comparison(
        program=llamacpp.version(), max_difference=largest(logits[:-1], chosen, answer.logprobs),
        tolerance=tolerance, greedy=greedy_equal(logits[:-1], chosen, tolerance),
        greedy_wanted=len(ids) if ended else count,
    )  # fmt: skip


def largest(logits: Tensor, chosen: Tensor, logprobs: list[dict[int, float]]) -> float:
    """The largest difference between logits (N, V) and logarithmic probabilities of some tokens.

    Both are relative to the `chosen` token's (N,), so that the share of other tokens cancels, such
    as that of a row that only the file has.
    """
    difference = 0.0
    for ours, best, theirs in zip(logits, chosen.tolist(), logprobs, strict=False):
        # below e^-60 their probabilities, float32, have lost digits
        known = [i for i in theirs if i < len(ours) and theirs[i] > -60]
        here = ours[known] - ours[best]
        there = torch.tensor([theirs[i] - theirs[best] for i in known])
        difference = max([difference, *(here - there).abs().tolist()])
    return difference

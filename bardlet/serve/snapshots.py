"""What a model writes while it is trained: the same prompts and random numbers every time."""

from __future__ import annotations

from bardlet.config import TrainConfig
from bardlet.data.dataset import samples
from bardlet.data.dataset.folder import Dataset
from bardlet.data.tokenizers.chat import ChatTemplate
from bardlet.model import GPT
from bardlet.sampling.filters import Sampling
from bardlet.serve.completion import Request, complete
from bardlet.system.device import Machine

TEXTS = 3  # at a time
NEW_TOKENS = 200  # of each
PROMPT = 24  # tokens of the validation text, at most
EXCLUDED = -100.0  # added to the logit of a token that is none of the tokenizer's


def write_samples(
    model: GPT, dataset: Dataset, config: TrainConfig, machine: Machine
) -> list[tuple[str, str]]:
    """A few prompts, each with the text that the model goes on with.

    The model's weights stay as they are, and so does every generator of random numbers. DataError
    where the prompt has a character without an id.
    """
    tokenizer = dataset.tokenizer
    padding = range(tokenizer.vocab_size, model.config.vocab_size)
    sampling = Sampling(logit_bias=tuple((token, EXCLUDED) for token in padding))
    ends = tuple(tokenizer.special().values()) if dataset.chat_template else ()
    requests = [
        Request(
            prompt=prompt, sampling=sampling, max_new_tokens=NEW_TOKENS, seed=config.seed % 2**32,
            number=number, ends=ends,
        )
        for number, prompt in enumerate(prompts(dataset, config))
    ]  # fmt: skip
    written = complete(model, tokenizer, requests, streams=TEXTS, dtype=machine.dtype)
    return [
        (tokenizer.decode(list(without_end(request.prompt, dataset))), completion.text)
        for request, completion in zip(requests, written, strict=True)
    ]


def prompts(dataset: Dataset, config: TrainConfig) -> list[tuple[int, ...]]:
    """The tokens of each prompt, at least one."""
    if dataset.chat_template:
        length = max(1, config.block_size // 2)
        if config.sample_start == "auto":
            return samples.questions(dataset, TEXTS, length)
        asked = [{"role": "user", "content": config.sample_start}]
        template = ChatTemplate(dataset.chat_template, dataset.tokenizer)
        return [tuple(template.encode(asked, prompt=True)[0].tolist())] * TEXTS
    end = dataset.end_of_text
    behind = () if end is None else (end,)
    if config.sample_start != "auto":
        start = config.sample_start
        if dataset.pairs and start == start.rstrip():
            start += "\n"  # as prompts have it in a dataset of pairs
        return [(*behind, *dataset.tokenizer.encode(start).tolist())] * TEXTS
    beginning = behind or (line_end(dataset),)
    first = (*behind, *first_words(dataset, min(PROMPT, config.block_size)))
    return [first] * TEXTS if dataset.pairs else [beginning, beginning, first]


def line_end(dataset: Dataset) -> int:
    """The token that a new line comes after; the first of the vocabulary where none is."""
    tokens = dataset.tokenizer.tokens()
    return tokens.index(b"\n") if b"\n" in tokens else 0


def first_words(dataset: Dataset, length: int) -> list[int]:
    """The first tokens of the validation split; of a dataset of pairs those of its first prompt."""
    stream = dataset.splits["val"]
    ids = stream.read(0, length).tolist()
    if dataset.pairs:
        counts = stream.counts(0, length).tolist()
        ids = ids[: counts.index(True)] if True in counts else ids
        ids = ids or stream.read(0, 1).tolist()
    elif dataset.end_of_text in ids[1:]:
        ids = ids[: ids.index(dataset.end_of_text, 1)]
    return ids


def without_end(prompt: tuple[int, ...], dataset: Dataset) -> tuple[int, ...]:
    """A prompt as it is shown: without the end of the text before it."""
    return prompt[1:] if prompt[0] == dataset.end_of_text else prompt

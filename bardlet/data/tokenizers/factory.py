"""From what --tokenizer says to a tokenizer: one of ours, a file, or one that is published."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from bardlet.data.tokenizers import bpe_training, chat, forms, pretrained, special
from bardlet.data.tokenizers.base import (
    ByteTokenizer,
    CharTokenizer,
    Tokenizer,
    from_json,
    load,
    with_end_of_text,
)
from bardlet.data.tokenizers.byte_tokens import END_OF_TEXT
from bardlet.data.tokenizers.json_file import added
from bardlet.errors import UsageError, did_you_mean

OURS = ("char", "byte", "gpt2", "bpe")
FORMS = (
    f"one of {', '.join(OURS)}, a tokenizer.json, .model, .tiktoken or vocab.json, or a folder "
    "with one, a tiktoken encoding "
    f"({', '.join(pretrained.ENCODINGS)}) or a model on the hub, OWNER/NAME"
)


def choose(
    name: str, text: str, *, vocab_size: int = 0, say: Callable[[str], None] = lambda line: None
) -> Tokenizer:  # fmt: skip
    """The tokenizer that `name` asks for, made for `text` where it is made for a text.

    `vocab_size` limits char, whose rarest characters then share the token <unk>, and sizes bpe,
    where 0 fits it to the text. `say` receives progress lines. UsageError for what cannot be right,
    DataError for a vocabulary that is not available or cannot be read.
    """
    check_size(name, vocab_size)
    if name == "char":
        return CharTokenizer.train(text, limit=vocab_size, ends=True)
    if name == "bpe":
        size = vocab_size or bpe_training.suggested_size(len(text.encode("utf-8", "replace")))
        trained = from_json(bpe_training.train(text, size), "the trained vocabulary")
        if trained.vocab_size < size:
            shortfall = f"the text gives {trained.vocab_size:,} tokens, not {size:,}"
            say(f"{shortfall}: no pair of them is left to merge within its words")
        return trained
    return existing(name, say)


def check_size(name: str, vocab_size: int) -> None:
    """Raise UsageError where `name` takes no size, or not this one."""
    if vocab_size and name not in ("char", "bpe"):
        raise UsageError(
            f"vocab_size={vocab_size} is for --tokenizer char or bpe, not for {name}",
            "The others have the size that they have",
        )
    if name == "bpe" and vocab_size:
        bpe_training.check_size(vocab_size)
    if name == "char" and vocab_size and vocab_size < 3:
        raise UsageError(
            f"vocab_size={vocab_size} must be 3 or more: a character, <unk> and the end of a text"
        )


def existing(name: str, say: Callable[[str], None] = lambda line: None) -> Tokenizer:
    """The tokenizer of `name` where that is not made for a text; errors as in `choose`."""
    if not name:
        raise UsageError("tokenizer= names none", f"It is {FORMS}")
    if name == "byte":
        return ByteTokenizer()
    if name in ("gpt2", "r50k_base"):
        return from_json(pretrained.gpt2(say), "GPT-2's vocabulary")
    path = Path(name)
    if path.is_dir():
        file = vocabulary_of(path)
        return with_end_of_text(of_file(file), special.end_noted(file.parent))
    if path.is_file():
        return of_file(path)
    if name in ("char", "bpe"):
        raise UsageError(
            f"{name} is made for a text",
            f"Make one with `bardlet tokenizer train TEXT --tokenizer {name}`, or give the folder "
            "of a dataset",
        )
    if name in pretrained.ENCODINGS:
        return from_json(pretrained.encoding(name), name)
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        text, eos = pretrained.hub(name)
        return from_json(text, name, eos)
    hint = did_you_mean(name, [*OURS, *pretrained.ENCODINGS])
    raise UsageError(f"tokenizer={name} is not known", f"{hint}It is {FORMS}")


def of_file(path: Path) -> Tokenizer:
    """The tokenizer of a file of a vocabulary, in any form."""
    text = forms.read(path) if path.is_file() else None
    if text is None:
        return load(path)
    return from_json(text, str(path), special.stated(path.parent, "eos_token"))


def with_special(tokenizer: Tokenizer, names: Sequence[str]) -> Tokenizer:
    """A byte-level tokenizer with more special tokens, after those that it has."""
    document = json.loads(tokenizer.to_json())
    ids: dict[str, int] = {}
    for name in names:
        if not name.strip() or name in ids or tokenizer.id_of(name) is not None:
            raise UsageError(
                f"special_tokens: {name!r} is a token already or has no text",
                "Give names such as <|user|>, each once",
            )
        ids[name] = tokenizer.vocab_size + len(ids)
    document["added_tokens"] += added(ids)
    return from_json(json.dumps(document, ensure_ascii=False) + "\n", "the trained vocabulary")


def with_roles(tokenizer: Tokenizer, names: Sequence[str]) -> Tokenizer:
    """The tokenizer with these special tokens, and with one that ends a text, after all that it has
    where it has them not; those that it has keep their ids.
    """
    end = [END_OF_TEXT] if tokenizer.end_of_text is None and END_OF_TEXT not in names else []
    wanted = [name for name in (*end, *names) if name not in tokenizer.special()]
    if not wanted:
        return tokenizer
    if isinstance(tokenizer, CharTokenizer | ByteTokenizer):
        roles = (*tokenizer.roles, *(name for name in wanted if name != END_OF_TEXT))
        if isinstance(tokenizer, ByteTokenizer):
            return ByteTokenizer(roles)
        ends = tokenizer.ends or END_OF_TEXT in wanted
        return CharTokenizer(tokenizer.chars, unknown=tokenizer.unknown, ends=ends, roles=roles)
    extended = with_special(tokenizer, wanted)
    return with_end_of_text(extended, tokenizer.end_of_text)


def for_chats(
    tokenizer: Tokenizer, name: str, chat_template: str
) -> tuple[Tokenizer, str]:  # fmt: skip
    """The tokenizer `name` with the tokens of a template for conversations, and the template.

    `chat_template` names it; empty is the vocabulary's own, or ChatML. Errors as in `chat.named`.
    """
    ends = tokenizer.end_of_text is not None
    end = next((n for n, i in tokenizer.special().items() if i == tokenizer.end_of_text), "")
    source = "" if chat_template else own_template(tokenizer, name)
    source = source or chat.named(chat_template or chat.DEFAULT, end if ends else END_OF_TEXT)
    tokenizer = with_roles(tokenizer, chat.role_tokens(source))
    chat.ChatTemplate(source, tokenizer).characters  # noqa: B018 - which fails where it cannot be used
    return tokenizer, source


def own_template(tokenizer: Tokenizer, name: str) -> str:
    """The template that a vocabulary comes with; empty where that is none of conversations."""
    path = Path(name)
    if name in OURS or not path.exists():
        return ""
    folder = vocabulary_of(path).parent if path.is_dir() else path.parent
    source = special.chat_template(folder)
    return "" if not source or chat.ChatTemplate(source, tokenizer).passes_on else source


def chat_characters(chat_template: str) -> str:
    """The text that a template itself writes."""
    source = chat.named(chat_template or chat.DEFAULT, END_OF_TEXT)
    roles = [name for name in chat.role_tokens(source) if name != END_OF_TEXT]
    return chat.ChatTemplate(source, ByteTokenizer(tuple(roles))).characters


def vocabulary_of(folder: Path) -> Path:
    """The file of the vocabulary in a folder, or in that of a run."""
    of_run = sorted(folder.glob("checkpoints/iter-*/tokenizer.json"))  # all of them the same
    return of_run[-1] if of_run else forms.find(folder)


def ended_by(tokenizer: Tokenizer, name: str) -> Tokenizer:
    """The tokenizer with the token `name` between texts; UsageError where it has no such token."""
    token = tokenizer.id_of(name) if name else None
    if name and token is None:
        names = list(tokenizer.special())
        listed = f"Its special tokens are {', '.join(names[:20])}"
        hint = listed if names else "It has no special token"
        raise UsageError(
            f"end_of_text={name} is not a token of this vocabulary",
            f"{did_you_mean(name, names)}{hint}",
        )
    return with_end_of_text(tokenizer, token)

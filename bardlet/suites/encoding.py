"""Context and continuation to tokens, as evaluation harnesses take them apart."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from bardlet.data.tokenizers.base import Tokenizer
from bardlet.errors import DataError
from bardlet.interop.verify import Trained
from bardlet.suites.likelihood import Span


class UnscorableError(Exception):
    """An example cannot be scored by this model; the message is the kind of reason."""


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """Texts to spans of one model's tokens."""

    tokenizer: Tokenizer
    context: int  # tokens that the model sees at once
    prefix: int | None  # the token that begins a text, where there is one

    def ids(self, text: str) -> tuple[int, ...]:
        """The tokens of a text. UnscorableError where it has a character without one."""
        try:
            return tuple(self.tokenizer.encode(text).tolist())
        except DataError:
            raise UnscorableError("characters that the model has no token for") from None

    def pair(self, context: str, continuation: str) -> tuple[Span, bool]:
        """A span that scores the continuation, and whether its context was cut.

        As lm-evaluation-harness has it: spaces that end the context belong to the continuation,
        whose tokens are those of both texts together behind as many as the context alone has. An
        empty context is the token that begins a text. What the model cannot see at once loses
        tokens from the left. UnscorableError where no token is left to score, or the continuation
        alone is longer than the model sees.
        """
        known = context.rstrip()
        continuation = context[len(known) :] + continuation
        if known:
            before, whole = self.ids(known), self.ids(known + continuation)
            return self.span(before + whole[len(before) :], len(before))
        ids = self.ids(continuation)
        if self.prefix is None or ids[:1] == (self.prefix,):
            return self.span(ids, 1)
        return self.span((self.prefix, *ids), 1)

    def sequence(self, context: str, continuation: str) -> tuple[Span, bool]:
        """The same with the token that begins a text before any context, as suites have it."""
        before = self.ids(context) if context else ()
        whole = self.ids(context + continuation)
        begin = () if self.prefix is None else (self.prefix,)
        return self.span((*begin, *before, *whole[len(before) :]), len(begin) + len(before))

    def span(self, tokens: tuple[int, ...], start: int) -> tuple[Span, bool]:
        """Tokens as a span of which those from `start` on count, and whether it was cut."""
        start = max(1, start)
        if start >= len(tokens):
            raise UnscorableError("continuations without a token of their own")
        extra = max(0, len(tokens) - self.context - 1)
        if start - extra < 1:
            raise UnscorableError("continuations longer than the model's context")
        return Span(tokens[extra:], start - extra), extra > 0


def encoder(trained: Trained, context: int) -> Encoder:
    """The encoder for a model.

    A text begins with the token that its publisher names for it, else with the one between texts,
    else on a new line.
    """
    tokenizer = trained.tokenizer
    names = trained.state.imported.token_ids if trained.state.imported else {}
    known = [names.get(name) for name in ("bos_token_id", "eos_token_id")]
    known += [trained.state.dataset.end_of_text, tokenizer.end_of_text]
    if b"\n" in tokenizer.tokens():
        known.append(tokenizer.tokens().index(b"\n"))
    ids = [i for i in known if isinstance(i, int) and 0 <= i < tokenizer.vocab_size]
    return Encoder(tokenizer=tokenizer, context=context, prefix=ids[0] if ids else None)


def left_out(reasons: Counter[str], total: int, name: str) -> None:
    """Raise DataError where not one example of a task could be scored."""
    if total and reasons.total() == total:
        why = ", ".join(f"{count:,} for {reason}" for reason, count in reasons.items())
        raise DataError(
            f"none of the {total:,} examples of {name} can be scored by this model: {why}",
            "Take a model with another tokenizer or a longer context",
        )

"""The patterns that split a text into the words that no token of a byte-level vocabulary spans."""

from __future__ import annotations

from collections.abc import Iterator

from bardlet.data.text.decoding import CUT, word_end

# the words that the format's own "use_regex" gives
GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
)
CL100K = _WORDS + r"|\s++$|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = _WORDS + r"|\s*[\r\n]+|\s+(?!\S)|\s+"  # CL100K but for the spaces that end a text
QWEN = _WORDS.replace(r"\p{N}{1,3}", r"\p{N}") + r"|\s*[\r\n]+|\s+(?!\S)|\s+"  # digits one by one
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TAIL = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
O200K = (  # unlike the others it leaves accents and vowel signs with their letters, in any script
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{_TAIL}"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{_TAIL}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PART = 1 << 16  # characters; the library's time and memory for a word list grow with its text
LONGEST = 1 << 16  # characters of a word that is merged whole: time grows faster than a word does


def parts(text: str) -> Iterator[str]:
    """`text` in parts that are encoded as they would be within it.

    All but in words of more than `LONGEST` characters, which are cut anywhere.
    """
    start = 0
    while start < len(text):
        limit = start + PART + LONGEST
        match = CUT.search(text, start + PART, limit)
        end = match.start() if match else limit
        yield text[start:end]
        start = end


def parts_of_utf8(raw: bytes) -> Iterator[memoryview]:
    """`parts` of a text in UTF-8, of as many bytes."""
    start, view = 0, memoryview(raw)
    while start < len(raw):
        at = start + PART
        word = word_end(view[at : at + LONGEST])
        end = at + (LONGEST if word is None else word)
        while end < len(raw) and raw[end] & 0xC0 == 0x80:  # not within a character
            end += 1
        yield view[start:end]
        start = end

"""What did not reach a dataset, counted by reason."""

from __future__ import annotations

import json
from pathlib import Path

from bardlet.data.text.counts import REASONS, Counts, Omission


def test_counts_add_up_and_are_said() -> None:
    counts = Counts()
    counts.add("empty", 0, 5)
    assert counts.to_json() == {} and counts.report() == []
    counts.add_all([Omission("duplicates", 1, 1), Omission("empty", 2, 0, "a.txt")])
    other = Counts(json.loads(json.dumps(counts.to_json())))
    other.update(counts.entries)
    for i in range(9):
        other.add("empty", 1, 1000, f"{i}.txt")
    assert counts.report() == [
        "2 empty documents were left out: a.txt", "1 duplicate was left out (1 byte)"
    ]  # fmt: skip
    names = ", ".join(["a.txt", *(f"{i}.txt" for i in range(7))])
    assert other.report() == [
        f"13 empty documents were left out (9,000 bytes): {names}, ...",
        "2 duplicates were left out (2 bytes)",
    ]
    assert (other.number("empty"), other.number("unread")) == (13, 0)
    assert len(json.dumps(other.to_json()["empty"])) < 200, "the examples are few"


def test_every_reason_has_two_forms_and_is_on_the_page() -> None:
    page = (Path(__file__).parents[3] / "docs" / "formats.md").read_text(encoding="utf-8")
    assert [reason for reason in REASONS if f"`{reason}`" not in page] == []
    assert all(len(forms) == 2 and forms[0] != forms[1] for forms in REASONS.values())

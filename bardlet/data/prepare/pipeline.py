"""Corpus and tokenizer to a dataset folder, which appears whole or not at all.

Inputs become units (`units`), processes turn these into tokens (`encoding`), which are put in order
(`work`), written (`shards`) and described (`manifest`). What is done is noted now and then
(`journal`), so that a kill costs seconds; neither it nor the number of processes changes a byte.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bardlet.data.dataset.folder import Dataset
from bardlet.data.prepare import manifest
from bardlet.data.prepare.journal import Replacing, StagingFolder, replaced_freely
from bardlet.data.prepare.options import Options, check_folder, check_room, identity, with_split
from bardlet.data.prepare.work import Say, Work
from bardlet.data.text.corpus import Corpus
from bardlet.data.text.inputs import Collection, of_text


def prepare(
    corpus: Corpus | Collection, out: Path, *, say: Say = lambda line: None,
    replacing: Replacing = replaced_freely, **choices: Any,
) -> Dataset:  # fmt: skip
    """Write `corpus` as a dataset folder at `out` and return it opened.

    `choices` are fields of `Options`. One text is split by position: its first 1 - val_fraction is
    for training, as in nanoGPT. A dataset at `out` that is made of the same is left as it is,
    another one replaced unless `replacing`, asked with the hash of the new tokens, raises; a folder
    with anything else in it is left alone with a DataError. `say` receives progress.
    """
    options = Options(**choices)
    options.check()
    collection = of_text(corpus) if isinstance(corpus, Corpus) else corpus
    check_folder(out)
    collection, options = with_split(collection, options, say)
    key = identity(collection, options)
    place = StagingFolder(out, key, replacing)
    place.recover()
    identified = all(i.kind != "memory" for i in collection.inputs) or collection.sources
    there = manifest.unchanged(out, collection, options.noted(), say) if identified else ""
    if isinstance(there, Dataset):
        return there
    check_room(collection, options, out)
    with place.held() as noted:
        described, encoder = Work(collection, options, place, say, again=there).run(noted)
        place.publish(described)
    return Dataset(out, encoder)  # opening a large vocabulary again takes seconds

"""Clean a corpus with datatrove, prepare it in parts, and make one dataset of them.

    pip install 'bardlet[data]' datatrove orjson
    bardlet tokenizer train SAMPLE --vocab_size 32000 --out tokenizer.json
    python recipes/datatrove_prepare.py RAW_FOLDER tokenizer.json data/mine --tasks 8

Two pipelines, each in as many tasks: datatrove reads RAW_FOLDER/*.jsonl, drops short documents and
writes JSON lines; then every task prepares its part of what was written. With SlurmPipelineExecutor
in place of LocalPipelineExecutor the tasks run on as many machines, which share the folders. A task
that was killed is run again and goes on where it stopped. The parts lie in data/mine.parts.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bardlet.data.prepare.merge import merge
from bardlet.data.prepare.pipeline import prepare
from bardlet.data.text import sources

MIN_CHARACTERS = 50  # characters of a document


def long_enough(document: Any) -> bool:
    """Whether a document is worth training on."""
    return len(document.text) >= MIN_CHARACTERS


class Part:
    """The step of a pipeline that prepares the part of the task that it runs in."""

    def __init__(self, texts: Path, tokenizer: Path, out: Path) -> None:
        self.texts, self.tokenizer, self.out = texts, tokenizer, out

    def __call__(self, data: Iterable[Any], rank: int = 0, world_size: int = 1) -> Iterable[Any]:
        prepare(
            sources.find([str(self.texts)]), self.out / f"{rank:05d}", split="document",
            tokenizer=str(self.tokenizer), part=(rank + 1, world_size), workers=1, say=print,
        )  # fmt: skip
        return data or ()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("raw", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tasks", type=int, default=2)
    args = parser.parse_args()
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.filters import LambdaFilter
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter

    parts = args.out.with_name(f"{args.out.name}.parts")
    texts = parts / "texts"
    clean = [
        JsonlReader(str(args.raw), glob_pattern="*.jsonl"), LambdaFilter(long_enough),
        JsonlWriter(str(texts), output_filename="${rank}.jsonl.gz"),
    ]  # fmt: skip
    encode = [Part(texts, args.tokenizer, parts)]
    for name, pipeline in (("clean", clean), ("encode", encode)):
        LocalPipelineExecutor(
            pipeline=pipeline, tasks=args.tasks, workers=args.tasks,
            logging_dir=str(parts / "logs" / name),
        ).run()  # fmt: skip
    merge([parts / f"{rank:05d}" for rank in range(args.tasks)], args.out)


if __name__ == "__main__":
    main()

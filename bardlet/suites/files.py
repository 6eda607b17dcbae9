"""Where the files of a suite are: in a folder that is named, in the cache, or on the hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bardlet.data.text.fetch import cache_folder
from bardlet.errors import DataError
from bardlet.io.safe_read import regular
from bardlet.system.optional_deps import has, need, reason

HUB_BLIMP = "nyu-mll/blimp"
BUNDLE = "https://karpathy-public.s3.us-west-2.amazonaws.com/eval_bundle.zip"
PUT = {
    "core": f"Unpack nanochat's bundle ({BUNDLE}), which has core.yaml, eval_meta_data.csv and "
            "eval_data/, into {cache}, or name its folder with --suite_files",
    "babylm": "Put folders of JSONL whose names begin with blimp, supplement or ewok, as BabyLM's "
              "evaluation_data has them, into {cache}, or name their folder with --suite_files",
}  # fmt: skip


def folder_of(suite: str, named: str | None) -> Path:
    """The folder with a suite's files. DataError with what to put where, if there is none."""
    cache = cache_folder() / "suites" / suite
    hint = PUT[suite].format(cache=cache)
    if named is not None:
        if not Path(named).is_dir():
            raise DataError(f"{named} is not a folder", hint)
        return Path(named)
    if cache.is_dir():
        return cache
    if suite == "babylm":
        return blimp_of_the_hub(hint)
    raise DataError(f"the files of the suite {suite} are missing", hint)


def blimp_of_the_hub(hint: str) -> Path:
    """BLiMP from the hub, or from the hub's own cache; EWoK is given to those who ask there."""
    if not has("huggingface_hub"):
        raise DataError("the files of the suite babylm are missing", hint)
    hub = need("huggingface_hub", "eval", "--suite babylm")
    try:
        return Path(
            hub.snapshot_download(HUB_BLIMP, repo_type="dataset", allow_patterns=["*.parquet"])
        )
    except Exception as error:  # its own, and those of its network library
        raise DataError(
            f"the files of the suite babylm are missing, and the hub does not give {HUB_BLIMP}: "
            f"{reason(error)}", hint,
        ) from None  # fmt: skip


def rows_of_parquet(path: Path) -> Iterator[Mapping[str, Any]]:
    """The rows of a Parquet file. DataError where it is damaged."""
    parquet = need("pyarrow.parquet", "data", f"{path}, a Parquet file,")
    try:
        yield from parquet.read_table(regular(path)).to_pylist()
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is damaged: {reason(error)}") from None

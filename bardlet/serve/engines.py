"""Engines by name: loaded when asked for, dropped where memory is short, renewed by newer runs."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from bardlet.errors import BardletError
from bardlet.run import run_folder
from bardlet.serve.engine import Engine, Stats
from bardlet.system.memory import available

LOOK_S = 1.0  # between two looks for a newer checkpoint
GRACE_S = 5.0  # in which a request that has an engine at hand gives it its texts
MEMORY = 3.0  # bytes of a loaded model, packed and with its caches, for one of its file


class Engines:
    """The engines by name; `models` make them, and `sizes` are the bytes that they need."""

    def __init__(
        self, models: Mapping[str, Callable[[], Engine]], sizes: Mapping[str, float] | None = None
    ) -> None:
        self.models, self.sizes = models, sizes or {}
        self.loaded: dict[str, Engine] = {}  # the least recently used first
        self.retired: list[tuple[float, Engine]] = []  # since when, and who may still write
        self.past = Stats()  # of those that are closed
        self.changing, self.loading = threading.Lock(), asyncio.Lock()

    async def get(self, name: str) -> Engine:
        """A model's engine, loaded in a thread where it is not."""
        if engine := self.use(name):  # without waiting for another that is being loaded
            return engine
        async with self.loading:
            return self.use(name) or await asyncio.to_thread(self.load, name)

    def use(self, name: str) -> Engine | None:
        """The engine if it is loaded, from now on the most recently used one."""
        with self.changing:
            if engine := self.loaded.pop(name, None):
                self.loaded[name] = engine
            return engine

    def load(self, name: str) -> Engine:
        """Load a model; for its room, drop those that write nothing, the least recently used first.

        Where too few are idle it is loaded all the same: the estimate may be too high.
        """
        while self.sizes.get(name, 0) > available():
            idle = [other for other, engine in list(self.loaded.items()) if not any(engine.load)]
            if not idle:
                break
            with self.changing:
                engine = self.loaded.pop(idle[0])
            self.end(engine)
            del engine
            gc.collect()
        engine = self.models[name]()
        with self.changing:
            self.loaded[name] = engine
        return engine

    def replace(self, name: str, engine: Engine) -> None:
        """Have another engine answer from now on; the one before it ends what it writes."""
        with self.changing:
            before, self.loaded[name] = self.loaded.get(name), engine
        if before is not None:  # it was not dropped meanwhile
            self.retired.append((time.monotonic(), before))

    def end_retired(self) -> None:
        """Close the engines that are replaced and have nothing left to write."""
        for entry in list(self.retired):
            since, engine = entry
            if time.monotonic() - since > GRACE_S and not any(engine.load):
                self.retired.remove(entry)
                self.end(engine)

    def end(self, engine: Engine) -> None:
        engine.close()
        self.past += engine.stats

    def all(self) -> list[Engine]:
        """Every engine that may have something to write."""
        return [*list(self.loaded.values()), *(engine for _, engine in list(self.retired))]

    def close(self) -> None:
        for engine in self.all():
            engine.close()


class Follower(threading.Thread):
    """Looks for newer checkpoints of the runs that are loaded, and has them answer."""

    def __init__(
        self, engines: Engines, runs: Mapping[str, Path], checkpoint: str,
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        super().__init__(name="follower", daemon=True)
        self.engines, self.runs, self.checkpoint, self.say = engines, runs, checkpoint, say
        self.over = threading.Event()
        self.failed: dict[str, Path] = {}  # a checkpoint of each that could not be loaded

    def run(self) -> None:
        while not self.over.wait(LOOK_S):
            for name, path in self.runs.items():
                if name in self.engines.loaded:
                    self.look(name, path)
            self.engines.end_retired()

    def look(self, name: str, path: Path) -> None:
        """Load the run's checkpoint if it is another than the one that answers."""
        engine = self.engines.loaded.get(name)
        try:
            newest = run_folder.find(path, self.checkpoint)
        except (BardletError, OSError):  # moved away: what is loaded goes on
            return
        if engine is None or self.failed.get(name) == newest:
            return
        if newest.resolve() == Path(engine.model.trained.source).resolve():
            return
        try:
            self.engines.replace(name, self.engines.models[name]())
            self.say(f"{name} is answered by {newest.name} from now on")
        except (BardletError, OSError, RuntimeError, MemoryError) as error:
            # one that is being removed, say, or too large beside the one before
            self.failed[name] = newest
            self.say(f"warning: {name} goes on with the checkpoint before {newest.name}: {error}")

    def stop(self) -> None:
        self.over.set()
        self.join()

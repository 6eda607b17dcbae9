"""The border between Python and the compiled core: errors, threads, memory, refused arguments."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from native_support import LLAMA, random_model

from bardlet import native, sample
from bardlet.native.decoding import Decoder

pytestmark = pytest.mark.skipif(native.library() is None, reason="the core was not compiled")

SETUP = """
import ctypes, os, resource, sys, torch
from bardlet import native
from bardlet.native import muon
from bardlet.native.decoding import Decoder
from bardlet.native.training import NativeGPT
from bardlet.errors import is_out_of_memory
from native_support import LLAMA, batch, random_model

idx, targets = batch(LLAMA, size=6)
core = NativeGPT(random_model(LLAMA), torch.float32)

@torch.no_grad()
def loss(threads):
    native.threads = lambda: threads
    return core(idx, targets)[1].item()

def tasks():
    return set(os.listdir("/proc/self/task"))

def limit_memory(more):
    size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + more, size + more))

def refused(error, call, *arguments):
    try:
        call(*arguments)
    except error as e:
        assert str(e)
    else:
        raise SystemExit(f"{error.__name__} was not raised")
"""


def child(code: str, *flags: str) -> str:
    """What a process of its own prints: a fault in the core ends it, not the tests."""
    result = subprocess.run(
        [sys.executable, *flags, "-c", SETUP + code], capture_output=True, text=True, timeout=200,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert result.returncode == 0, (result.returncode, result.stderr)
    return result.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
def test_where_memory_ends_fewer_threads_work_and_errors_are_memory_errors() -> None:
    """What the loop's halving of batches and its save need; an abort would leave neither."""
    child("""
expected, before = loss(1), tasks()
limit_memory(13 << 20)  # a thread's stack takes 8 MiB
assert abs(loss(8) - expected) < 1e-5 * expected
assert len(tasks() - before) <= 1
decoder = Decoder(core.model, 3, torch.float32)
tokens, three = torch.zeros(3, 9, dtype=torch.int64), [1] * 3
decoder.step(tokens, three, range(3), torch.rand(8, 3), three, three)

shape = native.Shape.of(LLAMA)
shape.layers = 1 << 30  # of tables that C++ takes memory for
arguments = [ctypes.byref(shape), None, None, 1, 1, False, 0, 0, None, None,
             (ctypes.c_long * 2)(), None, 0, None]
try:
    native.core().bardlet_decode(*arguments)
except MemoryError as error:
    assert is_out_of_memory(error) and "out of memory" in str(error), error
else:
    raise SystemExit("no error")
shape.layers = -1
refused(RuntimeError, native.core().bardlet_decode, *arguments)
assert abs(loss(8) - expected) < 1e-5 * expected  # and goes on
""")


@pytest.mark.skipif(sys.platform != "linux", reason="counts in /proc")
def test_threads_are_kept_between_calls_and_a_forked_child_starts_its_own() -> None:
    """Its parent's are not there to be waited for."""
    child("""
import signal, warnings
warnings.simplefilter("ignore")  # of forks beside threads
before = tasks()
expected = loss(3)
assert len(tasks() - before) == 2
kept = tasks()
assert loss(3) == loss(3) == expected and abs(loss(2) / expected - 1) < 1e-5
assert tasks() == kept
child = os.fork()
if not child:
    signal.alarm(60)
    os._exit(0 if loss(3) == loss(3) == expected and abs(loss(5) / expected - 1) < 1e-5 else 3)
assert os.waitpid(child, 0)[1] == 0
assert loss(3) == expected and tasks() == kept
""")


def test_what_would_read_other_memory_is_refused_without_asserts_too() -> None:
    child(
        """
if __debug__: raise SystemExit("-O was not given")
double, strided = torch.zeros(4, 4).double(), torch.zeros(4, 8)[:, ::2]
for tensor in (double, strided, torch.zeros(4, 4, device="meta")):
    refused(ValueError, native.pointer, tensor)
p, g = torch.zeros(64, 64), torch.zeros(64, 32)
options = dict(rate=0.1, momentum=0.9, decay=1.0, coefficients=[(1.0, 0.0, 0.0)], min_norm=1e-9,
               dtype=torch.float32)
for trio in [(p, g, p), (p, p, g), (p, p.double(), p), (p[0], p[0], p[0]), (p.T, p, p.mT)]:
    refused(ValueError, lambda: muon.step(*([each] for each in trio), [[64]], [True], **options))
for rows in ([32], [32, 64]):
    refused(ValueError, lambda: muon.step([p], [p], [p], [rows], [True] * len(rows), **options))
model = random_model(LLAMA)
decoder = Decoder(model, 2, torch.float32)
tokens, uniform = torch.zeros(2, 9, dtype=torch.int64), torch.zeros(8, 2)
both, ones = (0, 1), (1, 1)
for arguments in [(tokens.int(), ones, both, uniform), (tokens, (2, 1), both, uniform),
                  (tokens, (1, 0), both, uniform), (tokens[:1], ones, both, uniform),
                  (tokens, (1,), both, uniform), (tokens, ones, (0, 0), uniform),
                  (tokens, ones, (0, 2), uniform), (tokens, ones, (-1, 0), uniform),
                  (tokens, ones, both, uniform.double()), ([], [], [], torch.zeros(8, 0)),
                  (tokens, ones, both, torch.zeros(8, 1)), (tokens, ones, both, uniform[:0]),
                  (torch.zeros(2, 66, dtype=torch.int64), ones, both, torch.zeros(65, 2)),
                  (torch.zeros(9, 2, dtype=torch.int64).T, ones, both, uniform)]:
    how = [1.0] * len(arguments[2]), [5] * len(arguments[2])
    refused(ValueError, decoder.step, *arguments, *how)
how = (1.0, 1.0), (5, 5)
refused(ValueError, decoder.step, tokens, ones, both, uniform, (1.0,), (5, 5))
refused(ValueError, decoder.step, tokens, ones, both, uniform, (1.0, 1.0), (5,))
refused(ValueError, decoder.step, tokens, ones, both, uniform, (1.0, None), (5, 5))  # 8 steps
refused(ValueError, decoder.step, tokens, (1, 10), both, uniform[:1], (None, None), (0, 0))
refused(IndexError, decoder.step, tokens + 65, ones, both, uniform, *how)
refused(IndexError, decoder.step, tokens - 1, ones, both, uniform[:1], (None, None), (0, 0))
decoder.step(tokens, ones, both, uniform, *how)
refused(ValueError, decoder.step, tokens[:, :8], (7, 7), both, uniform[:1], *how)  # cached
refused(ctypes.ArgumentError, native.core().bardlet_peak, 2.5, 0, None)
refused(RuntimeError, native.core().bardlet_peak, 65, 0, None)
native.library = lambda: None
refused(RuntimeError, native.core)
""",
        "-O",
    )


def test_every_entry_declares_its_arguments() -> None:
    source = (Path(native.__file__).parent / "src" / "core.cpp").read_text(encoding="utf-8")
    exported = source[source.index('extern "C"') :]
    for name, arguments in native.ENTRIES.items():
        begin = exported.index(f"int {name}(") + len(f"int {name}(")
        assert len(exported[begin : exported.index(")", begin)].split(",")) == len(arguments), name
        assert list(getattr(native.core(), name).argtypes) == list(arguments)
    assert set(native.ENTRIES) == {
        line.split("(")[0].split()[1]
        for line in exported.splitlines()
        if line.startswith("int bardlet_") and "()" not in line
    }


def text(decoder: Decoder, seed: int) -> torch.Tensor:
    """(streams, 60) tokens, in steps of 5."""
    decoder.forget()
    tokens = torch.zeros(decoder.streams, 61, dtype=torch.int64)
    tokens[:, 0] = seed
    streams = range(decoder.streams)
    uniform = torch.stack([sample.uniform_numbers(60, seed, i) for i in streams], dim=1)
    for known in range(1, 61, 5):
        some = uniform[known - 1 : known + 4]
        decoder.step(
            tokens, [known] * len(streams), streams, some, [1.0] * len(streams), [20] * len(streams)
        )
    return tokens


def in_threads(*work: object) -> list[object]:
    results: list[object] = [None] * len(work)

    def run(i: int) -> None:
        results[i] = work[i]()  # type: ignore[operator]

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_a_decoder_outlives_the_thread_that_made_it() -> None:
    model = random_model(LLAMA)
    expected = text(Decoder(model, 2, torch.float32), 3)
    (decoder,) = in_threads(lambda: Decoder(model, 2, torch.float32))
    for memory in (decoder.packed, decoder.memory):
        assert len(memory.block) > 1000  # still held, seen from any thread
    assert torch.equal(text(decoder, 3), expected)


def test_threads_decode_at_once() -> None:
    """As a server's do, each by its own decoder."""
    model = random_model(LLAMA)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        decoders = [Decoder(model, n, torch.float32) for n in (1, 2, 3)]
        expected = [text(d, i) for i, d in enumerate(decoders)]
        for _ in range(3):
            got = in_threads(
                *(lambda d=d, i=i: text(d, i) for i, d in enumerate(decoders))  # type: ignore[misc]
            )
            assert all(torch.equal(g, e) for g, e in zip(got, expected, strict=True))
    finally:
        torch.set_num_threads(before)


def test_calls_on_one_decoder_take_turns() -> None:
    decoder = Decoder(random_model(LLAMA), 1, torch.float32)
    tokens, uniform = torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 1)
    decoder.lock.acquire()
    thread = threading.Thread(target=lambda: decoder.step(tokens, [1], [0], uniform, [0.0], [0]))
    thread.start()
    thread.join(0.2)
    assert thread.is_alive() and decoder.past == [0]
    decoder.lock.release()
    thread.join()
    assert decoder.past == [1]

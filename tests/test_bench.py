"""The benchmarks' own arithmetic: n-gram tables, clocks, scores and tables of results."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support import CORPUS, some_text, tiny_model

from bardlet.commands import settings
from bardlet.data.dataset.folder import Dataset
from bardlet.model import GPT, GPTConfig

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

import common
import loader_speed
import loss_curve
import ngram
import other_scores
import prepare_speed
import sample_formats
import sample_speed
import throughput
import time_to_loss
import tokenizer_speed
import ways
from common import Column
from ngram import KneserNey

LOG = [
    "number of parameters: 0.80M",
    "step 0: train loss 4.2, val loss 4.3",
    "iter 0: loss 4.2654, time 900.00ms, mfu -100.00%",  # nanoGPT's, evaluation in it
    "iter 1: loss nan, time 20.50ms, mfu 1.00%",
    "iter 2: loss 3.2, time 40.00ms, mfu unknown, lr 1.000e-03, grad norm 1.0, 9 tok/s",  # ours
    "after iter 3: loss 3.2, time 40.00ms",
]


# --- scores


@pytest.mark.parametrize("length", [64, 96])
def test_every_target_is_scored_once_with_what_a_stride_leaves_before_it(length: int) -> None:
    model = tiny_model("llama", block_size=64).eval()
    ids = torch.randint(model.config.vocab_size, (333,))
    longer = GPT(dataclasses.replace(model.config, block_size=length)).eval()
    longer.load_state_dict(model.state_dict())

    def by_hand(at: int, stride: int) -> float:
        """The nats of target `at`, 1 to 332, in the first window that has it."""
        start = max(0, -(-(at - length) // stride) * stride)
        seen = ids[start:at][None]
        logits, _ = longer(seen, seen)
        return -logits[0, -1].log_softmax(-1)[ids[at]].item()

    for stride in (length, 16, 1):
        found = other_scores.token_losses(model, ids, length, stride)
        assert found.shape == (332,)
        for at in (1, 17, length - 1, length, length + 1, 200, 330, 331, 332):
            assert found[at - 1] == pytest.approx(by_hand(at, stride), abs=1e-5)


def test_an_ensemble_is_the_mean_of_probabilities() -> None:
    losses = [-np.log(np.array(p)) for p in ([0.2, 0.5], [0.4, 0.1])]
    assert np.exp(-other_scores.of_the_mean(losses)) == pytest.approx([0.3, 0.3])


# --- counting


def test_small_tables_by_hand() -> None:
    """Tokens 0 0 1 0: too few for estimated discounts, so 0.5, 1 and 1.5 are taken off."""
    tables = KneserNey.count(np.array([0, 0, 1, 0]), vocab_size=2, longest=1)
    # token 0 stands behind both tokens, token 1 behind one: half of the mass is left over
    unigram = np.array([(2 - 1) / 3, (1 - 0.5) / 3]) + 0.5 * 0.5
    assert unigram.sum() == pytest.approx(1)
    after_1 = [0.5 * unigram[0] + 0.5, 0.5 * unigram[1]]  # 1 0 was seen once, 1 1 never
    plain = [(3 - 1.5) / 4 + 0.5 * 0.5, (1 - 0.5) / 4 + 0.5 * 0.5]
    by_hand = [-(math.log(p[1]) + math.log(p[0])) / 2 for p in (plain, after_1)]
    assert tables.losses(np.array([1, 1, 0])) == pytest.approx(by_hand, abs=1e-12)


def test_discounts_by_hand() -> None:
    counts = np.array([1, 1, 1, 1, 2, 2, 3, 4, 9])  # y = 4 / (4 + 2 * 2)
    assert ngram.discounts(counts) == pytest.approx([0, 0.5, 1.25, 1.0])
    odd = np.array([1, 2, 2, 2, 3, 4])  # y = 1 / 7: less than nothing would be taken off a 3
    usual = [0, 0.5, 1.0, 1.5]
    assert ngram.discounts(np.append(odd, [4] * 20)).tolist() == usual
    assert ngram.discounts(np.array([7, 8])).tolist() == usual


def test_every_context_has_a_distribution() -> None:
    generator = np.random.default_rng(0)
    V, longest = 5, 3
    train, other = (generator.choice(V - 1, size=n, p=[0.6, 0.2, 0.15, 0.05]) for n in (900, 60))
    other[10] = V - 1  # a token that train has not got, in contexts that it has not got
    tables = KneserNey.count(train, V, longest)
    sums = np.zeros((longest + 1, len(other)))
    for token in range(V):
        keys = [ngram.packed(other, n + 1, V + 1) for n in range(longest + 1)]
        found = tables.probabilities([key // (V + 1) * (V + 1) + token + 1 for key in keys])
        assert min(p.min() for p in found) > 0
        sums += np.array(found)
    np.testing.assert_allclose(sums, 1, atol=1e-12)


def test_packed_grams_are_read_back_to_front() -> None:
    assert ngram.packed(np.array([1, 0, 2]), 2, 10).tolist() == [2, 21, 13]
    with pytest.raises(ValueError, match="do not fit"):
        ngram.packed(np.zeros(3, dtype=np.int64), 7, 1000)


@pytest.mark.skipif(not CORPUS.is_file(), reason="the canonical text is not beside the checkout")
def test_counting_reaches_its_known_loss() -> None:
    points = np.frombuffer(CORPUS.read_bytes(), dtype=np.uint8)
    alphabet, ids = np.unique(points, return_inverse=True)
    border = int(len(ids) * 0.9)
    rows = ngram.measure(ids[:border], ids[border:], len(alphabet))
    assert [row["context"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["val_loss"] == pytest.approx(1.5165, abs=0.003)
    assert rows[0]["val_loss"] == pytest.approx(2.48, abs=0.01)


# --- clocks


def test_iterations_are_read_from_both_logs() -> None:
    assert common.iterations(iter(LOG)) == [(0, 900.0), (1, 20.5), (2, 40.0)]


def test_time_per_iteration_and_projection() -> None:
    times = [(0, 900.0), (1, 10.0), (2, 30.0), (3, 20.0)]
    assert common.per_iteration(times, drop=1) == 20.0
    assert common.project(20.0, 2000) == 40.0


def test_evaluations_are_taken_out_of_the_loop() -> None:
    times = [(0, 900.0), (1, 10.0), (2, 800.0), (3, 30.0)]  # evaluated before 0 and 2
    assert common.loop_seconds(times, eval_interval=2) == pytest.approx((10 + 30 + 2 * 20) / 1000)


def test_training_seconds_of_ours() -> None:
    lines = [(0.0, "step 5: train loss 1.0"), (9.0, "best val loss 1.0; training took 12.3 s")]
    process = common.Process(seconds=9.0, peak_bytes=None, lines=lines)
    assert common.our_train_seconds(process) == 12.3


def test_a_process_is_timed_and_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its second line comes 0.2 s after its first has been timed, which is the second look."""
    code = (
        "import os, pathlib, sys, time; print('a')\n"
        "while not pathlib.Path('timed').exists(): time.sleep(0.01)\n"
        "time.sleep(0.2); sys.stderr.write(os.environ['K'])"
    )
    looks: list[float] = []

    def look() -> float:
        looks.append(time.perf_counter())
        if len(looks) == 2:
            (tmp_path / "timed").touch()
        return looks[-1]

    monkeypatch.setattr(common, "time", SimpleNamespace(perf_counter=look))
    ran = common.timed([sys.executable, "-c", code], tmp_path, K="b")
    assert [line for _, line in ran.lines] == ["a", "b"]
    assert ran.lines[0][0] + 0.15 < ran.lines[1][0] <= ran.seconds < 60


def test_a_process_can_be_ended_at_a_line(tmp_path: Path) -> None:
    code = "import time; print('wait: no'); print('stop: here'); time.sleep(60)"
    ran = common.timed([sys.executable, "-c", code], tmp_path, until="stop:")
    assert ran.seconds < 60
    with pytest.raises(SystemExit, match="done"):  # the line never came
        common.timed([sys.executable, "-c", "print('done')"], tmp_path, until="stop:")


def test_a_failing_process_says_why(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="exit code 3\nreason"):
        common.timed([sys.executable, "-c", "print('reason'); raise SystemExit(3)"], tmp_path)


# --- models and scores


def test_scores_in_windows_of_the_peers_length(dataset_folder: Path) -> None:
    dataset = Dataset(dataset_folder)
    work = common.Workspace(dataset_folder, dataset_folder, dataset, None)

    def score(block_size: int, windows: int = 0) -> float:
        model = tiny_model("llama", vocab_size=dataset.vocab_size, block_size=block_size)
        return work.score(model, windows)

    assert score(16, windows=8) == pytest.approx(score(8), abs=1e-6)
    assert score(16) == pytest.approx(score(16, windows=64), abs=1e-9)  # no longer than it can see
    assert abs(score(16) - score(8)) > 1e-4


def test_the_peers_checkpoint_in_our_model(tmp_path: Path) -> None:
    theirs = tiny_model("gpt2")
    args = {k: v for k, v in vars(theirs.config).items() if k in sample_speed.Shape.__annotations__}
    weights = {f"_orig_mod.{name}": value for name, value in theirs.state_dict().items()}
    torch.save({"model": weights, "model_args": args}, tmp_path / "ckpt.pt")
    ours = common.peer_model(tmp_path)
    idx = torch.arange(8)[None]
    assert torch.equal(ours(idx, idx)[0], theirs(idx, idx)[0])


def test_the_peer_reads_our_tokens(dataset_folder: Path, tmp_path: Path) -> None:
    dataset = Dataset(dataset_folder)
    common.for_nanogpt(dataset, tmp_path / "work", tmp_path)
    for split, stream in dataset.splits.items():
        found = np.fromfile(tmp_path / "work" / "data" / "shakespeare_char" / f"{split}.bin", "<u2")
        assert np.array_equal(found, stream.read(0, len(stream)))


@pytest.mark.parametrize(("name", "millions"), [("0.8M", 0.80), ("10.7M", 10.65), ("124M", 123.65)])
def test_shapes_have_their_sizes(name: str, millions: float) -> None:
    shape = json.loads(sample_speed.SHAPES[name].model)
    with torch.device("meta"):
        model = GPT(GPTConfig(family="gpt2", **shape))
    assert model.num_params() / 1e6 == pytest.approx(millions, abs=0.01)


def test_formats_are_compared_with_the_others_and_with_what_memory_hands_out() -> None:
    speeds = {"bardlet, bfloat16": 200.0, "llama.cpp, int8": 320.0, "bardlet, int8": 400.0}
    runs = [{"case": "one", "who": who, "tokens_per_s": speed} for who, speed in speeds.items()]
    text = sample_formats.table(runs, ["bfloat16", "int8"], 10**8, 85e9)
    header, half, eight = text.splitlines()
    assert "limit at 85.0 GB/s" in header
    assert half.split() == ["bfloat16", *["200.0", "(200.0", "to", "200.0)"], "1.00x", "425", "47%"]
    assert eight.split()[-4:] == ["1.25x", "2.00x", "800", "50%"]
    # weights that a token reads: without positions, norms and biases
    assert sample_speed.SHAPES["124M"].weights == 12 * 12 * 768**2 + 50257 * 768


@pytest.mark.parametrize("name", throughput.SHAPES)
def test_presets_are_the_shapes_they_are_compared_as(name: str) -> None:
    shape = throughput.SHAPES[name]
    preset = settings.resolve_settings([shape.preset], {"device": "cpu"}, print)
    assert f"{preset.n_layer}L/{preset.n_embd}" == name
    sequences = preset.batch_size * preset.gradient_accumulation_steps
    assert sequences * preset.block_size == shape.tokens
    assert preset.family == "gpt2"
    assert preset.optimizer == "adamw"


def test_targets_are_the_peers_published_losses() -> None:
    assert {name: t.loss for name, t in time_to_loss.TARGETS.items()} == {
        "1.88": 1.88, "1.47": 1.4697,
    }  # fmt: skip
    assert "--block_size=64" in time_to_loss.TARGETS["1.88"].peer
    assert time_to_loss.TARGETS["1.88"].windows == 64


def test_a_curve_is_every_evaluation_of_either_log() -> None:
    lines = [
        (float(second), line)
        for second, line in enumerate([*LOG, "step 5: train loss 1, val loss 2.5"])
    ]
    ran = common.Process(seconds=9.5, peak_bytes=None, lines=lines)
    points = [(1.0, 4.3), (6.0, 2.5)]
    assert loss_curve.curve(ran) == {"seconds": 9.5, "val_loss": 2.5, "points": points}


# --- results


def test_contenders_take_turns(capsys: pytest.CaptureFixture[str]) -> None:
    contenders = {"a": lambda number: {"x": number}, "b": lambda number: {"x": number + 0.5}}
    runs = common.interleaved(contenders, 2, case="c")
    assert [(run["who"], run["seed"], run["x"]) for run in runs] == [
        ("a", 1337, 0), ("b", 1337, 0.5), ("a", 1338, 1), ("b", 1338, 1.5),
    ]  # fmt: skip
    assert "run 2 of 2: case c, who b, seed 1338, x 1.5" in capsys.readouterr().err


RUNS = [
    {"who": "peer", "seed": 1, "s": 10.0, "met": False},
    {"who": "ours", "seed": 1, "s": 2.0, "rate": 5.0, "met": True},
    {"who": "peer", "seed": 2, "s": 30.0, "met": False},
    {"who": "ours", "seed": 2, "s": 4.0, "rate": 5.0, "met": False},
    {"who": "peer", "seed": 3, "s": 11.0, "met": False},
    {"who": "ours", "seed": 3, "s": 2.5, "rate": 5.0, "met": True},
]


def test_spread_and_what_all_seeds_meet() -> None:
    assert common.spread([3.0, 1.0, 7.0]) == {"median": 3.0, "min": 1.0, "max": 7.0, "runs": 3}
    peer, ours = common.summary(RUNS)
    assert peer["s"] == {"median": 11.0, "min": 10.0, "max": 30.0, "runs": 3}
    assert ours["met"] is False  # one seed missed it
    assert "seed" not in ours


def test_table_of_medians_and_ratios() -> None:
    columns = [Column("s", "seconds", ".1f", better="less"), Column("rate", "rate", ".0f")]
    assert common.comparison(RUNS, columns).splitlines() == [
        "                  seconds  ratio  rate",
        "peer  11.0 (10.0 to 30.0)  1.00x",
        "ours     2.5 (2.0 to 4.0)  4.40x     5",
    ]
    more = common.comparison(RUNS, [Column("s", "seconds", better="more"), Column("met", "met")])
    assert [line.split()[-2:] for line in more.splitlines()[1:]] == [
        ["1.00x", "no"], ["0.23x", "no"],
    ]  # fmt: skip


def test_a_text_is_repeated_to_a_size(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"abc")
    prepare_speed.repeat(tmp_path / "in", tmp_path / "out", 8)
    assert (tmp_path / "out").read_bytes() == b"abcabcab"


def test_both_loaders_are_measured_on_the_same_tokens(dataset_folder: Path, tmp_path: Path) -> None:
    peer = tmp_path / "peer"
    peer.mkdir()
    script = (
        "print('the rest of the script does not run')\nraise SystemExit\n"
        "def get_batch(split):\n"
        "    data = np.memmap(os.path.join(data_dir, f'{split}.bin'), dtype=np.uint16, mode='r')\n"
        "    part = torch.from_numpy(data[: block_size + 1].astype(np.int64))\n"
        "    return part[None, :-1], part[None, 1:]\n"
    )
    (peer / "train.py").write_text(script, encoding="utf-8")
    loader_speed.for_peer(dataset_folder, peer)
    idx, _ = loader_speed.peer_batches(peer, peer)(0)
    tokens = Dataset(dataset_folder).splits["train"].read(0, loader_speed.CONTEXT)
    assert idx[0].tolist() == tokens.tolist()
    ours = loader_speed.our_batches(dataset_folder)
    assert ours(0)[0].shape == (loader_speed.BATCH, loader_speed.CONTEXT)
    speed, count = loader_speed.rate(ours, 60, 3)
    assert count == 3 and speed > 0


def test_ways_are_run_and_scored_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a short text, since it is scored by both to its end."""
    assert "torch, float32" in ways.ways()
    out, way = tmp_path / "out.json", ("--device=cpu --dtype=float32", {"BARDLET_CORE": "0"})
    text = tmp_path / "text.txt"
    text.write_text(some_text(10_000), encoding="utf-8")
    monkeypatch.setattr(ways, "ways", lambda: {"a": way, "b": way})
    command = ["x", f"--text={text}", "--presets", "shakespeare-char-quick", "--max_iters=2",
               "--repeats=1", f"--out={out}"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", command)
    ways.main()
    runs = json.loads(out.read_text(encoding="utf-8"))["runs"]
    assert [run["who"] for run in runs] == ["a", "b"]
    assert runs[0]["val_loss"] == runs[1]["val_loss"] < math.log(len(set(some_text(10_000))))


# --- tokenizers


def test_a_small_text_goes_on_in_other_words(tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_text("to be or not\nto \u00e9tude\n" * 50, encoding="utf-8")
    size = source.stat().st_size
    note = tokenizer_speed.write_text([source], target, 5 * size)
    grown = target.read_text(encoding="utf-8")
    assert 5 * size - 4 < target.stat().st_size <= 5 * size
    assert grown.startswith(source.read_text(encoding="utf-8"))
    assert len(set(grown.split())) > 2 * len({"to", "be", "or", "not", "\u00e9tude"})
    assert "copies" in note
    again = tmp_path / "again"
    tokenizer_speed.write_text([source], again, 5 * size)
    assert again.read_bytes() == target.read_bytes()
    assert "copies" not in tokenizer_speed.write_text([source, source], target, 2 * size)
    assert target.read_bytes() == 2 * source.read_bytes()


def test_merges_side_by_side() -> None:
    assert "all 2" in tokenizer_speed.compared(["ab", "bc"], ["ab", "bc"], "x")
    assert tokenizer_speed.compared(["ab", "bc", "cd"], ["ab", "cd", "ef"], "x").startswith(
        "2 of 3 merged tokens are also among the 3 of x, the first 1 in its order"
    )


def test_training_and_characters_are_timed_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rustbpe")
    text, out = tmp_path / "text.txt", tmp_path / "out.json"
    text.write_text("to be or not, that is the question\n\u00e9tude\n" * 99, encoding="utf-8")
    command = ["x", f"--text={text}", "--megabytes=0.02", "--train_megabytes=0.01", "--repeats=1",
               "--vocab_size=300", "--tasks", "train", "characters", f"--out={out}"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", command)
    tokenizer_speed.main()
    found = json.loads(out.read_text(encoding="utf-8"))
    assert "all 43 merges are those of tokenizers" in found["notes"]
    assert [note for note in found["notes"] if "of both are the same" in note]
    assert not [note for note in found["notes"] if "DIFFERENT" in note]
    assert len(found["runs"]) == 3 + 2 + 2
    assert all(run["mb_per_s"] > 0 for run in found["runs"])

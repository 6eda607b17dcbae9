"""What is wrong with a run: each illness is one function of its history.

It returns a Finding, with the numbers it was seen by and one option to change, or None. The
thresholds lie between healthy and ill runs that were made (docs/log.md, "The doctor").
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean, median
from typing import Any

from bardlet.analysis import splits
from bardlet.analysis.finding import Finding
from bardlet.analysis.history import History
from bardlet.analysis.pairs import answers_unlearnt, preferences_not_learnt
from bardlet.analysis.texts import data_repeated, little_counts, vocabulary_too_large
from bardlet.data.dataset.folder import Dataset
from bardlet.training.collapse import reread

MIN_LINES = 20  # lines of iterations, before a curve is judged
DEAD = 2  # last lines without learning: a healthy run has none
RISE = 0.5  # nats that a chunk's loss rises above the first line's: healthy runs never did by 0.1
LEARNT = 0.2  # of the first loss: what tokens' frequencies are worth, 4.17 to 3.3 by character
SPIKES = 0.01  # of all iterations
OVERFIT = 0.05  # nats above the best validation loss: whole-split losses differ by 0.02 by chance
EXPLOSION = 10.0  # times the gradient's norm before; healthy runs stay within 4
CLIP = 1.0  # the usual grad_clip: a norm below it harms nothing
SLOWER = 1.5  # times; on a machine of one's own, parts of a run differ by less than 1.2
WAITING = 0.3  # of an iteration's time
IDLE = 0.4  # MFU below which a device is said to idle; kept busy, small models reach it


def diagnose(history: History, dataset: Dataset | None = None) -> list[Finding]:
    """All findings, the gravest first; empty for a healthy run.

    `dataset` is what the run was trained on, where it is still there.
    """
    findings = [finding for illness in ILLNESSES if (finding := illness(history)) is not None]
    between = splits.gap(history, dataset)
    overfits = any(finding.illness == "overfitting" for finding in findings)
    if between and not (overfits and between.iter is not None):  # which explains the gap
        findings.append(between)
    return findings


def long(history: History) -> bool:
    """Whether there is enough of a run to judge its curves."""
    return len(history.iters) >= MIN_LINES


def as_json(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(finding) for finding in findings]


def diverged(history: History) -> Finding | None:
    """The loss is not finite any more, or ends above where it began."""
    finding = partial(
        Finding, illness="diverged",
        suggestion="Lower --learning_rate (with muon, --muon_lr too), or raise --warmup_iters",
    )  # fmt: skip
    for event in history.named("nonfinite"):
        loss, norm = event.get("loss"), event.get("grad_norm")
        evidence = f"loss {loss}, gradient norm {norm}: no finite numbers"
        return finding(iter=event["iter"], evidence=evidence)
    for line in history.iters:
        if line.get("loss") is None and line.get("counted") != 0:
            return finding(iter=line["iter"], evidence="the loss is not finite")
    if not long(history):
        return None
    first, last = history.fall()
    if last <= first + 2 * RISE:
        return None
    means = [(it, fmean(values)) for it, values in history.chunks("loss")]
    since = next((it for it, mean in means if mean > first + RISE), means[-1][0])
    return finding(iter=since, evidence=f"the loss began at {first:.2f} and ends at {last:.2f}")


def stopped_learning(history: History) -> Finding | None:
    """The last iterations taught nothing: equal logits everywhere, or no gradient."""
    collapse = reread(history.start, history.iters)
    if collapse.count < DEAD or diverged(history):
        return None
    return Finding(
        illness="stopped learning", iter=collapse.since, evidence=collapse.evidence(),
        suggestion="Begin --fresh at a lower --learning_rate (--muon_lr) or in --dtype=float32",
    )  # fmt: skip


def rate_too_high(history: History) -> Finding | None:
    """The loss leapt above its start, though it came back, or it spikes again and again."""
    finding = partial(
        Finding, illness="learning rate too high",
        suggestion="Lower --learning_rate to a third (with muon, --muon_lr too)",
    )  # fmt: skip
    spikes = history.named("spike", "skipped")
    if diverged(history) or stopped_learning(history) or not long(history):
        return None
    if len(spikes) > SPIKES * history.done:
        evidence = f"{len(spikes)} spikes of the loss in {history.done:,} iterations"
        return finding(iter=spikes[0]["iter"], evidence=evidence)
    first, last = history.fall()
    it, worst = max(
        ((it, fmean(values)) for it, values in history.chunks("loss")), key=lambda part: part[1]
    )
    if worst <= first + RISE:
        return None
    evidence = f"the loss rose from {first:.2f} to {worst:.2f} before it fell to {last:.2f}"
    return finding(iter=it, evidence=evidence)


def rate_too_low(history: History) -> Finding | None:
    """A model trained from scratch has hardly learnt more than how frequent each token is."""
    rates = [line["lr"] for line in history.iters if line.get("lr") is not None]
    warm = next((i for i, rate in enumerate(rates) if rate >= 0.99 * max(rates)), 0)
    if not long(history) or len(history.iters) - warm < MIN_LINES:
        return None
    first, last = history.fall()
    scratch = first > 0.8 * math.log(history.start.get("vocab_size", 2))
    high = rate_too_high(history) or diverged(history) or stopped_learning(history)
    if high or not scratch or first - last >= LEARNT * first:
        return None
    return Finding(
        illness="learning rate too low", iter=None,
        evidence=f"the loss fell from {first:.3f} to {last:.3f} only, in "
        f"{history.done:,} iterations at a rate of up to {max(rates):.1e}",
        suggestion="Raise --learning_rate tenfold (with muon, --muon_lr too)",
    )  # fmt: skip


def gradient_exploding(history: History) -> Finding | None:
    """The gradient's norm grew many times over, and not for a batch or two."""
    lowest = math.inf
    for it, values in history.chunks("grad_norm"):
        norm = median(values)
        if norm > max(EXPLOSION * lowest, CLIP):
            return Finding(
                illness="gradient norm exploding", iter=it,
                evidence=f"it rose from {lowest:.2f} to {norm:.3g}",
                suggestion="Set --grad_clip=1, or lower --learning_rate where that is set",
            )  # fmt: skip
        lowest = min(lowest, norm)
    return None


def overfitting(history: History) -> Finding | None:
    """Validation gets worse while training gets better."""
    evals = [line for line in history.evals if line.get("val_loss") is not None]
    if len(evals) < 2:
        return None
    best, last = min(evals, key=lambda line: line["val_loss"]), evals[-1]
    gained = best["train_loss"] - last["train_loss"]
    if last["val_loss"] - best["val_loss"] < OVERFIT or gained <= 0:
        return None
    return Finding(
        illness="overfitting", iter=best["iter"],
        evidence=f"since then validation rose from {best['val_loss']:.3f} to "
        f"{last['val_loss']:.3f}, while train fell from {best['train_loss']:.3f} to "
        f"{last['train_loss']:.3f}",
        suggestion=f"Use the checkpoint `best`; train to --max_iters={max(1, best['iter'])}, or "
        "with --dropout=0.2",
    )  # fmt: skip


def throughput_dropped(history: History) -> Finding | None:
    """The last quarter of the iterations took longer than those before."""
    lines = [line for line in history.iters if line.get("time_ms")]
    if len(lines) < MIN_LINES:
        return None
    split = len(lines) * 3 // 4
    before = median(line["time_ms"] for line in lines[:split])
    after = median(line["time_ms"] for line in lines[split:])
    if after < SLOWER * before:
        return None
    since = lines[split]["iter"]
    for it, values in reversed(history.chunks("time_ms")):
        if it < since and median(values) < SLOWER * before:
            break
        since = min(since, it)
    return Finding(
        illness="throughput dropped", iter=since,
        evidence=f"{before:.1f} ms an iteration, then {after:.1f} ms",
        suggestion="See what else runs on this machine and whether it is hot; "
        "--batch_size=auto measures anew",
    )  # fmt: skip


def device_idle(history: History) -> Finding | None:
    """The device waits for its batches."""
    lines = [line for line in history.iters[1:] if line.get("data_ms") and line.get("time_ms")]
    if len(lines) < MIN_LINES // 2:
        return None
    share = median(line["data_ms"] / line["time_ms"] for line in lines)
    known = [line["mfu"] for line in lines if line.get("mfu") is not None]
    if share < WAITING or (known and median(known) > IDLE):
        return None
    device = "GPU" if history.start.get("device") == "cuda" else "device"
    mfu = f", MFU {median(known):.1%}" if known else ""
    return Finding(
        illness=f"{device} idle", iter=None,
        evidence=f"{share:.0%} of an iteration is waiting for its batch{mfu}",
        suggestion="Give a --dataset on a local, faster disk",
    )  # fmt: skip


ILLNESSES: tuple[Callable[[History], Finding | None], ...] = (
    diverged, stopped_learning, rate_too_high, rate_too_low, gradient_exploding, overfitting,
    preferences_not_learnt, answers_unlearnt, little_counts, data_repeated, vocabulary_too_large,
    throughput_dropped, device_idle,
)  # fmt: skip

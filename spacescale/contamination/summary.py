"""The report in words: what was read, a line for each split, what it comes to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from textwrap import wrap

from spacescale.console import aligned
from spacescale.contamination.gaps import Gaps
from spacescale.contamination.seen import SeenWindows, Training
from spacescale.contamination.sequences import Hit
from spacescale.contamination.verdicts import IDENTICAL, Limits, Result, Searched


def what_was_read(training: Training, seen: dict[str, SeenWindows]) -> str:
    """Say how many windows of each species training read, and how often."""
    read = training.windows_read
    parts = []
    for name, windows in seen.items():
        count, total = int((windows.times > 0).sum()), windows.times.size
        mean = f", each {windows.times.mean():.3g} times in the mean"
        often = mean if windows.counted else ""
        parts.append(f"{name} {count:,} of {total:,} training windows{often}")
    step = "" if training.step is None else f", {training.step:,} steps"
    total = "" if read is None else f", {read:,} windows read"
    return f"{training.source}{step}{total}: {'; '.join(parts)}"


def table(
    results: Sequence[Result], by_chance: Sequence[Result], searched: Searched, limits: Limits
) -> list[str]:
    """The summary: a line for each split of each task, and what its columns say."""
    titles = (
        "task", "split", "sequences", "same", "similar", "seen", "in targets", "validation",
        "part", "too short", "backwards",
    )  # fmt: skip
    backwards = dict(_by_split(by_chance))
    rows: list[tuple[str, ...]] = [titles]
    for key, of_split in _by_split(results):
        count = Counter(result.verdict for result in of_split)
        seen = [result.train for result in of_split if result.seen and result.train]
        in_targets = sum(_in_target(hit, searched) for hit in seen)
        decoy = backwards[key]
        rows.append(
            (
                *key,
                f"{len(of_split):,}",
                f"{count['same']:,}",
                f"{count['similar']:,}",
                _share(len(seen), len(of_split)),
                _share(in_targets, len(of_split)),
                f"{count['validation']:,}",
                f"{count['part']:,}",
                f"{count['too short']:,}",
                _share(sum(result.seen for result in decoy), len(decoy)),
            )
        )
    what = (
        f"same: identity of {IDENTICAL:g} or more over {limits.cover:.0%} of a sequence's bases or "
        f"more; similar: of {limits.identity:g}; in targets: the hit's middle was predicted, not "
        "only read; validation: the same or similar in windows that chose the checkpoint, not in "
        "training; part: less of it, or less alike; backwards: seen, of sequences read backwards, "
        "which lie in no genome: chance, and repeats of few bases"
    )
    return [*aligned(rows, left=(0, 1)), *wrap(what, 100)]


def in_words(
    results: Sequence[Result], by_chance: Sequence[Result], limits: Limits, gaps: Gaps
) -> Iterator[str]:
    """What it comes to, what that leaves open, and of which splits it may be chance."""
    total = len(results)
    same, similar = (
        sum(result.verdict == verdict for result in results) for verdict in ("same", "similar")
    )
    least = "at least " if gaps.not_searched else ""
    yield (
        f"{least}{same:,} of {total:,} sequences ({_share(same, total)}) lie in what training "
        f"read, at an identity of {IDENTICAL:g} or more, and {least}{similar:,} "
        f"({_share(similar, total)}) are similar to it, at {limits.identity:g} or more"
    )
    if gaps.not_searched:
        yield (
            f"windows of {', '.join(gaps.not_searched)} were read and not searched: that a "
            "sequence was not found does not say that it was not seen"
        )
    backwards = dict(_by_split(by_chance))
    for (task, split), of_split in _by_split(results):
        decoy = backwards[task, split]
        seen = sum(result.seen for result in of_split)
        if 0 < seen * len(decoy) <= sum(result.seen for result in decoy) * len(of_split):
            yield f"{task} {split}: no more than is found of sequences read backwards"


def _by_split(results: Sequence[Result]) -> list[tuple[tuple[str, str], list[Result]]]:
    def key(result: Result) -> tuple[str, str]:
        return result.query.task, result.query.split

    return [(name, list(group)) for name, group in groupby(sorted(results, key=key), key=key)]


def _in_target(hit: Hit, searched: Searched) -> bool:
    stretch, start, end = searched.place(hit)
    windows = searched.seen[stretch.data.name]
    return windows.readings(stretch.contig.name, (start + end) // 2)[0] > 0


def _share(count: int, total: int) -> str:
    return f"{100 * count / total:.1f} %"

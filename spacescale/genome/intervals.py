"""Genomic intervals, 0-based half-open, that belong to a split."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Interval:
    """A stretch of a contig, 0-based half-open in bp, that belongs to one split."""

    chrom: str
    start: int
    end: int
    split: str


def tile(interval: Interval, span_bp: int, stride_bp: int) -> Iterator[Interval]:
    """Yield the intervals of span_bp that fit, from the interval's start on, every stride_bp."""
    for start in range(interval.start, interval.end - span_bp + 1, stride_bp):
        yield Interval(interval.chrom, start, start + span_bp, interval.split)


def windows_per_split(windows: Iterable[Interval]) -> dict[str, int]:
    """Return how many windows each split has, train, valid and test first, others by name."""
    counts = Counter(window.split for window in windows)
    first = [split for split in ("train", "valid", "test") if split in counts]
    return {split: counts[split] for split in first + sorted(counts.keys() - set(first))}


def split_hash(windows: Iterable[Interval]) -> str:
    """Return the SHA-256 over chrom, start, end and split of the windows, in sorted order."""
    lines = (f"{w.chrom}\t{w.start}\t{w.end}\t{w.split}\n" for w in sorted(windows))
    return hashlib.sha256("".join(lines).encode()).hexdigest()

"""Genomic intervals, 0-based half-open, that belong to a split."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

_COLUMNS = ("chrom", "start", "end", "split")


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


def to_columns(intervals: Iterable[Interval]) -> dict[str, np.ndarray]:
    """Return intervals as the columns chrom, start, end, split: str and int64, [intervals]."""
    rows = [(i.chrom, i.start, i.end, i.split) for i in intervals]
    return {
        name: np.array(column)
        for name, column in zip(_COLUMNS, zip(*rows, strict=True), strict=True)
    }


def from_columns(columns: Mapping[str, np.ndarray]) -> list[Interval]:
    """Return the intervals, at least one, that `to_columns` was given."""
    return [Interval(*row) for row in zip(*(columns[n].tolist() for n in _COLUMNS), strict=True)]


def windows_per_split(windows: Iterable[Interval]) -> dict[str, int]:
    """Return how many windows each split has, train, valid and test first, others by name."""
    counts = Counter(window.split for window in windows)
    first = [split for split in ("train", "valid", "test") if split in counts]
    return {split: counts[split] for split in first + sorted(counts.keys() - set(first))}


def precedence(split: str) -> tuple[int, str]:
    """Sort key of splits by what counts first where they compete: test, valid, others, train."""
    return {"test": 0, "valid": 1, "train": 3}.get(split, 2), split


def split_hash(windows: Iterable[Interval]) -> str:
    """Return the SHA-256 over chrom, start, end and split of the windows, in sorted order."""
    lines = (f"{w.chrom}\t{w.start}\t{w.end}\t{w.split}\n" for w in sorted(windows))
    return hashlib.sha256("".join(lines).encode()).hexdigest()

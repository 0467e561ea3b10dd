"""Which split may use which bases of the stored sequence."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from spacescale.dataset.schema import EXCLUDED, Contig
from spacescale.genome.intervals import Interval, precedence, split_hash
from spacescale.genome.stretches import Stretches


def sequence_splits(
    contigs: Sequence[Contig], intervals: Iterable[Interval], margin_bp: int = 0
) -> list[Interval]:
    """Give every stored base to one split, or to none (EXCLUDED); in the order of `contigs`.

    intervals: stretches or targets of splits, in any order. A base in those of several splits goes
    to the first of test, valid, others by name, train; one nearer than margin_bp to what a split
    before it in this order got is excluded. So is a base in no interval.
    """
    of_contig: dict[str, dict[str, list[tuple[int, int]]]] = {}
    for interval in intervals:
        splits = of_contig.setdefault(interval.chrom, {})
        splits.setdefault(interval.split, []).append((interval.start, interval.end))
    found = []
    for contig in contigs:
        splits = of_contig.get(contig.name, {})
        asked = {name: np.array(rows, dtype=np.int64) for name, rows in splits.items()}
        found += _of_contig(contig, asked, margin_bp)
    return found


def _of_contig(contig: Contig, asked: dict[str, np.ndarray], margin_bp: int) -> list[Interval]:
    """asked: {split: starts and ends, int64 [intervals, 2]}."""
    first, last = contig.start, contig.start + contig.length
    taken = Stretches.covered_by(*np.zeros((2, 0), dtype=np.int64))
    parts: dict[str, Stretches] = {}
    for split in sorted(asked.keys() - {EXCLUDED}, key=precedence):
        starts, ends = np.clip(asked[split], first, last).T
        wanted = Stretches.covered_by(starts[starts < ends], ends[starts < ends])
        parts[split] = wanted.without(taken.widened(margin_bp)) if taken else wanted
        taken = taken.joined(parts[split]) if taken else wanted
    whole = Stretches(np.array([first]), np.array([last]))
    parts[EXCLUDED] = whole.without(taken)
    return sorted(
        Interval(contig.name, start, end, split)
        for split, part in parts.items()
        for start, end in zip(part.starts.tolist(), part.ends.tolist(), strict=True)
    )


def bases_by_split(stretches: Iterable[Interval]) -> dict[str, int]:
    """Return how many bases each split may use, train, valid and test first, EXCLUDED last."""
    counts: Counter[str] = Counter()
    for stretch in stretches:
        counts[stretch.split] += stretch.end - stretch.start
    names = ("train", "valid", "test", *sorted(counts.keys() - {EXCLUDED}), EXCLUDED)
    return {split: counts[split] for split in dict.fromkeys(names) if split in counts}


def sequence_hash(stretches: Iterable[Interval]) -> str:
    """Return the SHA-256 over the stretches that a split may use."""
    return split_hash(stretch for stretch in stretches if stretch.split != EXCLUDED)

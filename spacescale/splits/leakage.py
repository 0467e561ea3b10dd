"""What held-out windows share with the windows of other splits, within one species."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from spacescale.dataset.schema import SplitOverlap
from spacescale.genome.intervals import Interval, precedence
from spacescale.genome.stretches import Stretches


@dataclass
class _Split:
    """The targets of one split on one contig, int64 [windows] each."""

    starts: np.ndarray
    ends: np.ndarray

    def widened(self, margin: int) -> Stretches:
        """Return the bases within `margin` bp of a target."""
        return Stretches.covered_by(np.maximum(self.starts - margin, 0), self.ends + margin)


def split_overlaps(windows: Iterable[Interval], seq_length: int) -> list[SplitOverlap]:
    """Compare every split with every other, in both directions; nothing shared gives no entry.

    windows: target intervals of one length with their split, in any order. seq_length: bp of
    input, centred on the target. Overlapping windows of one split are nobody's business.
    """
    contigs = _by_contig(windows)
    names = sorted({split for splits in contigs.values() for split in splits})
    found = [
        _compare(contigs, split, other, seq_length)
        for split in names
        for other in names
        if split != other
    ]
    return [overlap for overlap in found if overlap.sharing]


def keep_apart(windows: Sequence[Interval], margin_bp: int) -> list[Interval]:
    """Leave out targets that are less than margin_bp from a target of another split.

    Of two such targets the one whose split comes later in test, valid, others by name, train goes.
    Returns what stays, in the order given.
    """
    contigs = _by_contig(windows)
    near: set[Interval] = set()
    for chrom, splits in contigs.items():
        kept: list[_Split] = []
        for name in sorted(splits, key=precedence):
            split = splits[name]
            close = np.zeros(split.starts.size, dtype=bool)
            for other in kept:
                close |= other.widened(margin_bp).bases_in(split.starts, split.ends) > 0
            kept.append(_Split(split.starts[~close], split.ends[~close]))
            gone = zip(split.starts[close].tolist(), split.ends[close].tolist(), strict=True)
            near.update(Interval(chrom, start, end, name) for start, end in gone)
    return [window for window in windows if window not in near]


def _by_contig(windows: Iterable[Interval]) -> dict[str, dict[str, _Split]]:
    """Return {contig: {split: its targets}}."""
    pairs: dict[str, dict[str, list[tuple[int, int]]]] = {}
    for window in windows:
        splits = pairs.setdefault(window.chrom, {})
        splits.setdefault(window.split, []).append((window.start, window.end))
    return {
        chrom: {split: _Split(*np.array(rows, dtype=np.int64).T) for split, rows in splits.items()}
        for chrom, splits in pairs.items()
    }


def _compare(
    contigs: dict[str, dict[str, _Split]], split: str, other: str, seq_length: int
) -> SplitOverlap:
    targets = seeing = seen_bp = sharing = shared_bp = 0
    example = ""
    for chrom, splits in contigs.items():
        if split not in splits or other not in splits:
            continue
        ours, theirs = splits[split], splits[other]
        margin = (seq_length - int(ours.ends[0] - ours.starts[0])) // 2
        in_targets = theirs.widened(0).bases_in(ours.starts, ours.ends)
        seen = theirs.widened(0).bases_in(ours.starts - margin, ours.ends + margin)
        shared = theirs.widened(margin).bases_in(ours.starts - margin, ours.ends + margin)
        if not example and in_targets.any():
            example = _example(chrom, ours, theirs, int(np.flatnonzero(in_targets)[0]))
        targets += int(np.count_nonzero(in_targets))
        seeing += int(np.count_nonzero(seen))
        sharing += int(np.count_nonzero(shared))
        seen_bp, shared_bp = max(seen_bp, int(seen.max())), max(shared_bp, int(shared.max()))
    return SplitOverlap(
        split=split,
        other=other,
        targets=targets,
        example=example,
        seeing=seeing,
        seen_bp=seen_bp,
        sharing=sharing,
        shared_bp=shared_bp,
    )


def _example(chrom: str, ours: _Split, theirs: _Split, row: int) -> str:
    start, end = int(ours.starts[row]), int(ours.ends[row])
    hit = int(np.flatnonzero((theirs.starts < end) & (theirs.ends > start))[0])
    return f"{chrom}:{start}-{end} and {theirs.starts[hit]}-{theirs.ends[hit]}"

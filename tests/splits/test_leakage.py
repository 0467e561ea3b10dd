"""What splits share within a species, against a base-by-base statement."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spacescale.genome.intervals import Interval
from spacescale.splits.leakage import keep_apart, split_overlaps

SPAN = 10


def target(start, split, chrom="c"):
    return Interval(chrom, start, start + SPAN, split)


WINDOWS = st.lists(
    st.builds(
        target,
        st.integers(0, 200),
        st.sampled_from(["train", "valid", "test"]),
        st.sampled_from(["c", "d"]),
    ),
    max_size=14,
)


def bases(window, margin):
    return {(window.chrom, i) for i in range(max(window.start - margin, 0), window.end + margin)}


@given(WINDOWS, st.integers(0, 15))
@settings(max_examples=150, deadline=None)
def test_every_shared_base_is_found(windows, margin):
    found = {(o.split, o.other): o for o in split_overlaps(windows, SPAN + 2 * margin)}
    for split in ("train", "valid", "test"):
        for other in {"train", "valid", "test"} - {split}:
            ours = [w for w in windows if w.split == split]
            theirs = [w for w in windows if w.split == other]
            in_targets = {base for w in theirs for base in bases(w, 0)}
            in_inputs = {base for w in theirs for base in bases(w, margin)}
            shared = [len(bases(w, 0) & in_targets) for w in ours]
            seen = [len(bases(w, margin) & in_targets) for w in ours]
            inputs = [len(bases(w, margin) & in_inputs) for w in ours]
            overlap = found.get((split, other))
            if overlap is None:
                assert not any(inputs)
                continue
            assert overlap.targets == np.count_nonzero(shared)
            assert (overlap.seeing, overlap.seen_bp) == (np.count_nonzero(seen), max(seen))
            assert overlap.sharing == np.count_nonzero(inputs)
            # counted without the contig's start, before which there is nothing to share
            assert overlap.shared_bp == max(inputs)


@given(WINDOWS, st.integers(1, 30))
@settings(max_examples=150, deadline=None)
def test_kept_targets_are_apart_and_test_goes_first(windows, margin):
    kept = keep_apart(windows, margin)
    for one in kept:
        for other in kept:
            if one.split != other.split and one.chrom == other.chrom:
                assert max(other.start - one.end, one.start - other.end) >= margin
    assert [w for w in windows if w.split == "test"] == [w for w in kept if w.split == "test"]
    assert not split_overlaps(kept, SPAN + 2 * (margin // 2))
    for gone in set(windows) - set(kept):
        rank = ["test", "valid", "train"].index(gone.split)
        higher = [w for w in kept if ["test", "valid", "train"].index(w.split) < rank]
        assert any(
            w.chrom == gone.chrom and max(w.start - gone.end, gone.start - w.end) < margin
            for w in higher
        )


def test_neighbours_of_other_splits_are_counted_and_named():
    windows = [target(0, "train"), target(10, "train"), target(20, "valid"), target(60, "valid")]
    texts = [str(overlap) for overlap in split_overlaps(windows, SPAN + 8)]
    assert texts == [
        "train: 1 windows see up to 4 bp of targets of valid",
        "valid: 1 windows see up to 4 bp of targets of train",
    ]
    assert split_overlaps(windows, SPAN) == []
    apart = [target(0, "train"), target(13, "valid")]
    assert [str(o) for o in split_overlaps(apart, SPAN + 4)] == [
        "train: 1 windows share up to 1 bp of input with valid, but no target",
        "valid: 1 windows share up to 1 bp of input with train, but no target",
    ]


def test_overlapping_targets_are_named():
    windows = [target(0, "train"), target(30, "train"), target(35, "test"), target(5, "train")]
    texts = [str(overlap) for overlap in split_overlaps(windows, SPAN)]
    assert texts == [
        "test: 1 targets overlap targets of train, first c:35-45 and 30-40",
        "train: 1 targets overlap targets of test, first c:30-40 and 35-45",
    ]


@pytest.mark.parametrize("windows", [[], [target(0, "train"), target(3, "train")]])
def test_one_split_shares_nothing(windows):
    assert split_overlaps(windows, 100) == []

"""Which split gets which base, against a statement base by base."""

from hypothesis import given
from hypothesis import strategies as st

from spacescale.dataset.schema import EXCLUDED, Contig
from spacescale.dataset.sequence_splits import bases_by_split, sequence_hash, sequence_splits
from spacescale.genome.intervals import Interval

FIRST_TO_LAST = ["test", "valid", "fold1", "train"]
# A whole contig, and two pieces of another.
CONTIGS = [
    Contig(name="a", length=30, offset=0),
    Contig(name="b", length=10, offset=30, start=5, whole=False),
    Contig(name="b", length=12, offset=40, start=20, whole=False),
]
INTERVALS = st.lists(
    st.builds(
        lambda chrom, start, length, split: Interval(chrom, start, start + length, split),
        st.sampled_from("abc"),
        st.integers(0, 30),
        st.integers(1, 12),
        st.sampled_from([*FIRST_TO_LAST, EXCLUDED]),
    ),
    max_size=8,
)


def base_by_base(contig, intervals, margin):
    """Split of each base of a contig: what is asked for, less what lies near an earlier split."""
    given = {}
    for split in FIRST_TO_LAST:
        earlier = [base for base in given if given[base] != split]
        for base in range(contig.start, contig.start + contig.length):
            asked = any(
                i.chrom == contig.name and i.split == split and i.start <= base < i.end
                for i in intervals
            )
            if asked and all(abs(base - other) > margin for other in earlier):
                given[base] = split
    return given


@given(INTERVALS, st.integers(0, 4))
def test_every_base_has_the_split_it_should_have(intervals, margin):
    found = sequence_splits(CONTIGS, intervals, margin)
    place = 0
    for contig in CONTIGS:
        expected = base_by_base(contig, intervals, margin)
        end = contig.start
        while end < contig.start + contig.length:
            stretch = found[place]
            assert (stretch.chrom, stretch.start) == (contig.name, end)
            splits = {expected.get(base, EXCLUDED) for base in range(stretch.start, stretch.end)}
            assert splits == {stretch.split}
            place, end = place + 1, stretch.end
        assert end == contig.start + contig.length
    assert place == len(found)


def test_a_base_at_the_distance_of_the_margin_is_kept():
    """As targets are: one that is nearer than the margin goes."""
    asked = [Interval("a", 0, 10, "test"), Interval("a", 10, 30, "train")]
    found = sequence_splits(CONTIGS[:1], asked, margin_bp=4)
    assert found == [
        Interval("a", 0, 10, "test"),
        Interval("a", 10, 14, EXCLUDED),
        Interval("a", 14, 30, "train"),
    ]
    assert bases_by_split(found) == {"train": 16, "test": 10, EXCLUDED: 4}
    assert list(bases_by_split(found)) == ["train", "test", EXCLUDED]


def test_the_hash_is_of_what_may_be_used():
    asked = [Interval("a", 0, 10, "test"), Interval("a", 12, 30, "train")]
    found = sequence_splits(CONTIGS[:1], asked)
    assert sequence_hash(found) == sequence_hash(asked) != sequence_hash(asked[:1])

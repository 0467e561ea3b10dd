"""Blocks dealt to splits by a seed."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spacescale.errors import UserError
from spacescale.genome import dna
from spacescale.genome.intervals import Interval, split_hash
from spacescale.genome.sequence_files import read_genome
from spacescale.genome.stretches import Stretches
from spacescale.splits.dealing import deal, joined, random_blocks, shares_met, shares_of
from spacescale.splits.regions import Regions

LENGTHS = st.dictionaries(
    st.text("abcXY", min_size=1, max_size=4), st.integers(1, 3000), min_size=1, max_size=5
)


def write_genome(path, lengths, unknown=()):
    rng = np.random.default_rng(0)
    with path.open("w") as file:
        for name, length in lengths.items():
            letters = "N" * length if name in unknown else "".join(rng.choice(list("ACGT"), length))
            file.write(f">{name}\n{letters}\n")
    return read_genome(path)


@given(lengths=LENGTHS, block=st.integers(1, 700), seed=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_every_base_is_in_exactly_one_split(lengths, block, seed):
    regions = Regions.blocks(lengths, block)
    keys = [f"{chrom}:{start}" for chrom, start, _ in regions]
    weights = np.diff(regions.edges)[:, None]
    intervals = joined(regions, deal(weights, keys, shares_of(0.2, 0.1), seed))
    for name, length in lengths.items():
        covered = np.zeros(length, dtype=int)
        for interval in intervals:
            if interval.chrom == name:
                covered[interval.start : interval.end] += 1
        assert (covered == 1).all()
    assert not any(
        (a.chrom, a.end, a.split) == (b.chrom, b.start, b.split) for a, b in pairwise(intervals)
    )


@given(lengths=LENGTHS, block=st.integers(50, 700))
@settings(max_examples=30, deadline=None)
def test_the_order_of_contigs_changes_nothing(lengths, block):
    backwards = dict(reversed(lengths.items()))
    assert list(Regions.blocks(lengths, block)) == list(Regions.blocks(backwards, block))


def test_random_blocks_do_not_depend_on_the_order_of_the_fasta(tmp_path):
    lengths = {"c2": 40_000, "c10": 30_000, "c1": 30_000}
    shares = shares_of(0.1, 0.1)
    one = write_genome(tmp_path / "a.fa", lengths)
    other = write_genome(tmp_path / "b.fa", dict(sorted(lengths.items())))
    blocks = [random_blocks(g, list(g.contigs), 1000, shares, 7) for g in (one, other)]
    assert blocks[0] == blocks[1]
    # The algorithm is a promise: these are the blocks of seed 7, whatever the version.
    assert split_hash(blocks[0]) == GOLDEN
    another = random_blocks(one, list(one.contigs), 1000, shares, 8)
    assert split_hash(another) != GOLDEN


GOLDEN = "90caa227cbe192300adeeb7a46dcd01404ac1edc92ed6abb2c694a353bb86176"


@given(
    sizes=st.lists(st.integers(1, 50), min_size=60, max_size=120),
    seed=st.integers(0, 100),
)
@settings(max_examples=40, deadline=None)
def test_shares_are_met_to_the_size_of_the_small_groups(sizes, seed):
    weights = np.array(sizes)
    splits = deal(weights[:, None], [str(i) for i in range(len(sizes))], shares_of(0.2, 0.1), seed)
    met = shares_met(weights, splits)
    tolerance = weights.max() / weights.sum()
    assert met["valid"] == pytest.approx(0.2, abs=tolerance)
    assert met["test"] == pytest.approx(0.1, abs=tolerance)


def test_shares_are_met_in_every_genome_at_once():
    rng = np.random.default_rng(0)
    weights = np.zeros((300, 2))
    weights[:200, 0] = rng.integers(1, 20, 200)
    weights[100:, 1] = rng.integers(1, 20, 200)  # 100 to 199 are in both
    splits = deal(weights, [str(i) for i in range(300)], shares_of(0.1, 0.1), 0)
    for column in weights.T:
        met = shares_met(column, splits)
        assert met["valid"] == pytest.approx(0.1, abs=0.01)
        assert met["test"] == pytest.approx(0.1, abs=0.01)


def test_every_block_may_be_held_out():
    seen = set()
    for seed in range(60):
        splits = deal(np.ones((20, 1)), [str(i) for i in range(20)], shares_of(0.1, 0.1), seed)
        assert splits.count("valid") == splits.count("test") == 2
        seen |= {i for i, split in enumerate(splits) if split == "test"}
    assert seen == set(range(20))


def test_a_group_larger_than_the_held_out_shares_trains():
    weights = np.array([[700], *[[10]] * 30])
    for seed in range(20):
        splits = deal(weights, [str(i) for i in range(31)], shares_of(0.1, 0.1), seed)
        assert splits[0] == "train"


def test_unknown_bases_do_not_count(tmp_path):
    genome = write_genome(tmp_path / "a.fa", {"c": 20_000, "gap": 80_000}, unknown=("gap",))
    intervals = random_blocks(genome, list(genome.contigs), 500, shares_of(0.2, 0.2), 0)
    held = sum(i.end - i.start for i in intervals if i.split == "valid" and i.chrom == "c")
    assert held == pytest.approx(4_000, abs=500)


@pytest.mark.parametrize(
    "block, valid, test, message",
    [
        (10_000, 0.1, 0.1, "valid_share 0.1 cannot be met: 3 blocks of 10,000 bp give 0.000"),
        (15_000, 0.0, 0.1, "test_share 0.1 cannot be met: 2 blocks"),
        (1_000, 0.6, 0.4, "leave nothing to train on"),
        (1_000, -0.1, 0.4, "valid_share -0.1 must be at least 0 and below 1"),
        (1_000, 0.1, 1.0, "test_share 1.0 must be at least 0 and below 1"),
    ],
)
def test_shares_that_cannot_be_met_are_refused(tmp_path, block, valid, test, message):
    genome = write_genome(tmp_path / "a.fa", {"c": 30_000})
    with pytest.raises(UserError, match=message):
        random_blocks(genome, ["c"], block, shares_of(valid, test), 0)


def test_a_split_may_be_left_away(tmp_path):
    genome = write_genome(tmp_path / "a.fa", {"c": 30_000})
    intervals = random_blocks(genome, ["c"], 1_000, shares_of(0.1, 0.0), 0)
    assert {interval.split for interval in intervals} == {"train", "valid"}


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 30)), max_size=8),
    st.integers(0, 80),
    st.integers(0, 40),
)
def test_stretches_count_the_bases_that_are_covered(pairs, start, length):
    covered = np.zeros(200, dtype=bool)
    for first, size in pairs:
        covered[first : first + size] = True
    starts = np.array([first for first, _ in pairs], dtype=np.int64)
    ends = np.array([first + size for first, size in pairs], dtype=np.int64)
    found = Stretches.covered_by(starts, ends)
    assert (found.starts[1:] > found.ends[:-1]).all()
    bases = found.bases_in(np.array([start]), np.array([start + length]))
    assert bases.tolist() == [np.count_nonzero(covered[start : start + length])]


def test_known_bases_of_regions(tmp_path):
    path = tmp_path / "a.fa"
    path.write_text(">b\nACGTN\n>a\nNNACGTA\n")
    genome = read_genome(path)
    regions = Regions.blocks(genome.lengths, 4)
    assert list(regions) == [("a", 0, 4), ("a", 4, 7), ("b", 0, 4), ("b", 4, 5)]
    assert regions.known_bases(genome).tolist() == [2, 3, 4, 0]
    assert dna.N == 4


@given(st.permutations(range(6)))
def test_the_hash_does_not_depend_on_the_order(order):
    windows = [Interval("c", 10 * i, 10 * i + 10, "train" if i % 2 else "test") for i in range(6)]
    shuffled = [windows[i] for i in order]
    assert split_hash(shuffled) == split_hash(windows)
    other = [*windows[:-1], Interval("c", 50, 60, "valid")]
    assert split_hash(other) != split_hash(windows)

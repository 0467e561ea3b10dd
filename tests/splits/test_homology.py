"""Homologous regions and groups of blocks, against plain statements of what they are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spacescale.errors import UserError
from spacescale.splits.by_homology import SplitSettings, split_genomes
from spacescale.splits.dealing import shares_of
from spacescale.splits.groups import (
    Blocks,
    connected,
    cut_groups,
    deal_groups,
    leave_out_homologous,
)
from spacescale.splits.homology import Links, NamedRegions, read_links
from spacescale.splits.regions import Regions

A = {"a1": 500, "a2": 300}
B = {"b1": 400, "b2": 350}


def named(lengths, block, species="x", **more):
    return NamedRegions(species, Regions.blocks(lengths, block), **more)


def as_dict(links):
    columns = (links.first, links.second, links.bases)
    return {(a, b): n for a, b, n in zip(*(c.tolist() for c in columns), strict=True)}


@st.composite
def chains(draw):
    """Lines of a chain file between A and B, and every pair of bases they align."""
    lines, bases = [], []
    for _ in range(draw(st.integers(1, 4))):
        blocks = draw(
            st.lists(st.tuples(*[st.integers(*r) for r in ((1, 60), (0, 30), (0, 30))]),
                     min_size=1, max_size=4)
        )  # fmt: skip
        t_bp = sum(n + dt for n, dt, _ in blocks) - blocks[-1][1]
        q_bp = sum(n + dq for n, _, dq in blocks) - blocks[-1][2]
        t_name, q_name = draw(st.sampled_from([*A])), draw(st.sampled_from([*B]))
        strand = draw(st.sampled_from("+-"))
        if t_bp > A[t_name] or q_bp > B[q_name]:
            continue
        t = draw(st.integers(0, A[t_name] - t_bp))
        q = draw(st.integers(0, B[q_name] - q_bp))
        ends = f"{t} {t + t_bp} {q_name} {B[q_name]} {strand} {q} {q + q_bp}"
        lines.append(f"chain 1 {t_name} {A[t_name]} + {ends} 1")
        for number, (n, dt, dq) in enumerate(blocks):
            last = number == len(blocks) - 1
            lines.append(str(n) if last else f"{n} {dt} {dq}")
            for i in range(n):
                other = q + i if strand == "+" else B[q_name] - 1 - (q + i)
                bases.append(((t_name, t + i), (q_name, other)))
            t, q = t + n + dt, q + n + dq
        lines.append("")
    return lines, bases


@given(chains(), st.integers(1, 130), st.integers(1, 130))
@settings(max_examples=80, deadline=None)
def test_links_count_every_pair_of_aligned_bases(tmp_path_factory, drawn, block, other_block):
    lines, bases = drawn
    if not lines:
        return
    path = tmp_path_factory.mktemp("chains") / "a.chain"
    path.write_text("\n".join(lines))
    first, second = named(A, block), named(B, other_block)
    expected: dict[tuple[int, int], int] = {}
    numbers = [{region: i for i, region in enumerate(side.regions)} for side in (first, second)]
    for (t_name, t), (q_name, q) in bases:
        ours = (t_name, t // block * block, min(t // block * block + block, A[t_name]))
        q_start = q // other_block * other_block
        theirs = (q_name, q_start, min(q_start + other_block, B[q_name]))
        key = (numbers[0][ours], numbers[1][theirs])
        expected[key] = expected.get(key, 0) + 1
    assert as_dict(read_links(path, first, second)) == expected


def test_many_batches_give_the_same_links(tmp_path, monkeypatch):
    path = tmp_path / "a.chain"
    lines = [
        f"chain 1 a1 500 + {i} {i + 100} b1 400 - {i} {i + 100} 1\n40 10 10\n50\n"
        for i in range(90)
    ]
    path.write_text("".join(lines))
    whole = as_dict(read_links(path, named(A, 70), named(B, 90)))
    monkeypatch.setattr("spacescale.splits.homology._BATCH", 3)
    assert as_dict(read_links(path, named(A, 70), named(B, 90))) == whole


def test_pairs_link_every_region_they_touch(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("a1\t90\t210\tb1\t10\t110\n")
    links = as_dict(read_links(path, named(A, 100), named(B, 100)))
    assert links == {(0, 0): 10, (0, 1): 10, (1, 0): 90, (1, 1): 10, (2, 0): 10, (2, 1): 10}


@pytest.mark.parametrize(
    "text, message",
    [
        ("chain 1 a1 501 + 0 10 b1 400 + 0 10 1\n10\n", "a1 has 501 bp there, a1 of x has 500"),
        ("a1\t0\t501\tb1\t0\t10\n", ":1: a1 reaches to 501 there, a1 of x has 500 bp"),
        ("a1\t0\t10\tb1\t0\t401\n", ":1: b1 reaches to 401 there, b1 of y has 400 bp"),
        ("b1\t0\t10\ta1\t0\t10\n", "names no contig of x: the FASTA has no contig 'b1'"),
        ("A1\t0\t10\tb1\t0\t10\n", "names no contig of x: .*did you mean a1.*--aliases auto"),
    ],
)
def test_files_that_do_not_belong_to_the_genomes(tmp_path, text, message):
    path = tmp_path / "homology"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_links(path, named(A, 100), named(B, 100, "y"))


def test_a_small_contig_of_another_length_is_passed_over_where_it_may_be(tmp_path):
    path = tmp_path / "a.chain"
    chain = "chain 1 {0} {1} + 0 9 {0} {1} + 0 9 1\n9\n"
    path.write_text(chain.format("chr1", 900) + chain.format("chrM", 17))
    lengths = {"chr1": 900, "chrM": 16}
    one = named(lengths, 100, spare=True)
    other = named(lengths, 100, "y", spare=True)
    assert read_links(path, one, other).bases.tolist() == [9]
    assert one.misfits["chrM"] == ("chrM", f"{path}:3: chrM has 17 bp there, chrM of x has 16")
    with pytest.raises(UserError, match=r"a.chain:3: chrM has 17 bp there, .* another assembly"):
        read_links(path, named(lengths, 100), named(lengths, 100, "y"))
    path.write_text(chain.format("chr1", 901) + chain.format("chrM", 16))
    with pytest.raises(UserError, match=r"a.chain:1: chr1 has 901 bp there, .* another assembly"):
        read_links(path, named(lengths, 100, spare=True), named(lengths, 100, "y", spare=True))


def test_contig_names_by_alias_and_style(tmp_path):
    path = tmp_path / "homology"
    path.write_text(
        "chain 1 chrA1 500 + 0 10 z 400 + 0 10 1\n10\nchain 1 un 9 + 0 9 z 400 + 0 9 2\n9\n"
    )
    first = named(A, 100, match=True)
    links = read_links(path, first, named(B, 100, "y", aliases={"z": "b1"}))
    assert as_dict(links) == {(0, 0): 10}
    assert first.skipped == {"un": 1}
    # another length is another contig: the name alone does not match
    path.write_text("chain 1 chrA1 499 + 0 10 b1 400 + 0 10 1\n10\n")
    with pytest.raises(UserError, match="chrA1"):
        read_links(path, named(A, 100, match=True), named(B, 100, "y"))


@given(
    st.integers(1, 30),
    st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=40),
)
@settings(deadline=None)
def test_connected_blocks_are_those_with_a_path_between_them(num_blocks, pairs):
    pairs = [(a % num_blocks, b % num_blocks) for a, b in pairs]
    members = {i: {i} for i in range(num_blocks)}
    for a, b in pairs:
        joint = members[a] | members[b]
        for one in joint:
            members[one] = joint
    array = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    links = Links(array[:, 0], array[:, 1], np.ones(len(pairs), dtype=np.int64))
    groups = connected(num_blocks, links).tolist()
    assert groups == [min(members[i]) for i in range(num_blocks)]


@st.composite
def linked_blocks(draw):
    """Blocks of three species with random links within and between them."""
    counts = draw(st.tuples(*[st.integers(10, 25)] * 3))
    regions = {f"s{i}": Regions.blocks({"c": 100 * n}, 100) for i, n in enumerate(counts)}
    weights = {name: np.full(len(r), 100) for name, r in regions.items()}
    number = st.integers(0, sum(counts) - 1)
    pairs = draw(st.lists(st.tuples(number, number, st.integers(1, 90)), max_size=60))
    links = Links(*np.array(pairs, dtype=np.int64).reshape(-1, 3).T)
    return Blocks(regions, weights, links)


@given(linked_blocks(), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_homologous_blocks_share_a_split(blocks, seed):
    groups = connected(len(blocks), blocks.links)
    splits = deal_groups(blocks, groups, shares_of(0.2, 0.2), seed)
    for a, b in zip(blocks.links.first.tolist(), blocks.links.second.tolist(), strict=True):
        assert splits[a] == splits[b]
    assert leave_out_homologous(splits, blocks.links) == splits


@given(linked_blocks(), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_cut_groups_leave_no_homology_between_splits(blocks, seed):
    groups = connected(len(blocks), blocks.links)
    runs = cut_groups(blocks, groups, blocks.links, largest=0.1, run_bp=300)
    assert (runs >= 0).all()
    splits = leave_out_homologous(
        deal_groups(blocks, runs, shares_of(0.2, 0.2), seed), blocks.links
    )
    for a, b in zip(blocks.links.first.tolist(), blocks.links.second.tolist(), strict=True):
        assert splits[a] == splits[b] or "" in (splits[a], splits[b])


def test_held_out_blocks_stay_where_a_cut_leaves_blocks_out():
    links = Links(np.array([0, 1, 2]), np.array([3, 3, 0]), np.array([5, 5, 5]))
    assert leave_out_homologous(["train", "valid", "test", "test"], links) == [
        "",
        "",
        "test",
        "test",
    ]
    assert leave_out_homologous(["train", "train", "train", "valid"], links) == [
        "",
        "",
        "train",
        "valid",
    ]


def write_fasta(path, lengths):
    rng = np.random.default_rng(0)
    contigs = (f">{name}\n{''.join(rng.choice(list('ACGT'), n))}\n" for name, n in lengths.items())
    path.write_text("".join(contigs))
    return path


@pytest.fixture
def genomes(tmp_path):
    return {
        "human": write_fasta(tmp_path / "h.fa", {"chr1": 30_000, "chr2": 20_000}),
        "mouse": write_fasta(tmp_path / "m.fa", {"chr1": 40_000}),
        "fly": write_fasta(tmp_path / "f.fa", {"2L": 20_000}),
    }


def split_at(result, species, chrom, position):
    for interval in result.species[species].intervals:
        if interval.chrom == chrom and interval.start <= position < interval.end:
            return interval.split
    return None


def test_homology_ties_species_together_over_several_steps(tmp_path, genomes):
    pairs = tmp_path / "hm.tsv"
    pairs.write_text("".join(f"chr1\t{i}\t{i + 400}\tchr1\t{39_000 - i}\t{39_400 - i}\n"
                             for i in range(0, 30_000, 1000)))  # fmt: skip
    to_fly = tmp_path / "mf.tsv"
    to_fly.write_text("".join(f"chr1\t{i}\t{i + 300}\t2L\t{i // 2}\t{i // 2 + 300}\n"
                              for i in range(0, 39_000, 4000)))  # fmt: skip
    homology = [("human", "mouse", pairs), ("mouse", "fly", to_fly)]
    held_out = set()
    for seed in range(3):
        settings_ = SplitSettings(genomes, homology, block_bp=1000, seed=seed)
        result = split_genomes(settings_)
        for i in range(0, 30_000, 1000):
            human = split_at(result, "human", "chr1", i + 100)
            assert human == split_at(result, "mouse", "chr1", 39_100 - i)
            if i % 4000 == 3000:  # its mouse block has a fly block
                mouse = 39_000 - i
                assert human == split_at(result, "fly", "2L", mouse // 2 + 100)
        shares = result.species["mouse"].shares
        assert shares["valid"] == pytest.approx(0.1, abs=0.03)
        held_out.add(tuple(i for i in result.species["human"].intervals if i.split == "test"))
    assert len(held_out) == 3


def test_paralogs_within_one_species(tmp_path, genomes):
    pairs = tmp_path / "paralogs.tsv"
    pairs.write_text("".join(f"chr1\t{i}\t{i + 50}\tchr2\t{i}\t{i + 50}\n"
                             for i in range(0, 20_000, 1000)))  # fmt: skip
    only = {"human": genomes["human"]}
    result = split_genomes(SplitSettings(only, [("human", "human", pairs)], block_bp=1000))
    for i in range(0, 20_000, 1000):
        assert split_at(result, "human", "chr1", i) == split_at(result, "human", "chr2", i)


def test_without_homology_every_species_is_dealt_by_itself(genomes):
    both = split_genomes(SplitSettings(genomes, block_bp=1000, seed=3))
    alone = split_genomes(SplitSettings({"fly": genomes["fly"]}, block_bp=1000, seed=3))
    assert alone.species["fly"].num_blocks == 20
    assert both.species["fly"].shares == alone.species["fly"].shares == {
        "test": 0.1, "train": 0.8, "valid": 0.1}  # fmt: skip


def test_a_giant_group_is_refused_with_its_size_and_the_ways_out(tmp_path, genomes):
    # each block of human overlaps two of mouse, so all of it hangs together
    chain = tmp_path / "hm.chain"
    chain.write_text("chain 1 chr1 30000 + 0 30000 chr1 40000 + 300 30300 1\n30000\n")
    genomes = {name: genomes[name] for name in ("human", "mouse")}
    genomes["human"] = write_fasta(tmp_path / "h1.fa", {"chr1": 30_000})
    homology = [("human", "mouse", chain)]
    message = (
        r"share 0.1 cannot be met: the 30 blocks of human .* by --min-aligned, is 1: 100 %, "
        r".*256: 100 %.* of a genome. Raise --min-aligned, or cut .* --cut-groups 16000"
    )
    with pytest.raises(UserError, match=message):
        split_genomes(SplitSettings(genomes, homology, block_bp=1000))
    result = split_genomes(SplitSettings(genomes, homology, block_bp=1000, cut_groups=3000))
    assert result.largest["human"] == pytest.approx(1)
    assert 0 < result.species["mouse"].shares[""] < 0.4
    for start in range(0, 29_000, 100):
        ours = split_at(result, "human", "chr1", start)
        theirs = split_at(result, "mouse", "chr1", start + 300)
        assert ours == theirs or None in (ours, theirs)
    loose = split_genomes(SplitSettings(genomes, homology, block_bp=1000, min_aligned=500))
    assert loose.num_groups > 20


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"homology": [("human", "rat", "x")]}, "there is no genome of 'rat', only of human"),
        ({"block_bp": 0}, "block_bp 0 must be at least 1"),
        ({"min_aligned": 0}, "min_aligned 0 must be at least 1"),
        ({"valid_share": 1.5}, "valid_share 1.5"),
        ({"aliases": {"rat": "x"}}, "aliases of rat"),
    ],
)
def test_settings_are_checked(genomes, changes, message):
    with pytest.raises(UserError, match=message):
        SplitSettings(genomes, **changes)

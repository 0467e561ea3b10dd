"""Held-out windows with homologous training windows, against a base-by-base statement."""

from dataclasses import replace

import numpy as np
import pytest
from small_inputs import small_options, write_inputs

from spacescale.dataset.manifest import read_manifest
from spacescale.dataset.reader import SpeciesData
from spacescale.errors import UserError
from spacescale.prepare.stages import make_dataset
from spacescale.splits.homology_leakage import homology_leaks


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """Two species of one genome; finch's training windows overlap, perch is split otherwise."""
    folder = tmp_path_factory.mktemp("species")
    write_inputs(folder / "in")
    finch = {"stride": 40}
    perch = {"valid_chroms": (), "test_chroms": (), "random_blocks": 300, "split_seed": 2}
    made = (
        small_options(folder / "in", folder / "out", species=name, **options)
        for name, options in (("finch", finch), ("perch", perch))
    )
    return {options.species: SpeciesData.open(make_dataset(options)) for options in made}


def random_chains(path, lengths, seed):
    """Write gapless chains; return every pair of bases they align."""
    rng = np.random.default_rng(seed)
    lines, bases = [], []
    for _ in range(60):
        first, second = rng.choice([*lengths], 2)
        size = int(rng.integers(5, 150))
        start, other = (int(rng.integers(0, lengths[name] - size)) for name in (first, second))
        strand = rng.choice(["+", "-"])
        ends = f"{start} {start + size} {second} {lengths[second]} {strand} {other} {other + size}"
        lines.append(f"chain 1 {first} {lengths[first]} + {ends} 1\n{size}\n\n")
        for i in range(size):
            base = other + i if strand == "+" else lengths[second] - 1 - other - i
            bases.append(((first, start + i), (second, base)))
    path.write_text("".join(lines))
    return bases


def plain_count(held, trained, bases, split):
    """Aligned bp of each held-out window, counted base by base."""
    training = {
        (w.chrom, i)
        for w in trained.windows.intervals()
        if w.split == "train"
        for i in range(w.start, w.end)
    }
    reached = [ours for ours, theirs in bases if theirs in training]
    return [
        sum(chrom == w.chrom and w.start <= i < w.end for chrom, i in reached)
        for w in held.windows.intervals()
        if w.split == split
    ]


def test_no_aligned_base_is_no_leak(datasets):
    with pytest.raises(UserError, match="min_aligned 0 must be at least 1"):
        homology_leaks(datasets, [], min_aligned=0)


@pytest.mark.parametrize("seed", [0, 1])
def test_leaks_are_those_of_the_bases(datasets, tmp_path, seed):
    finch, perch = datasets["finch"], datasets["perch"]
    lengths = {contig.name: contig.length for contig in finch.manifest.contigs}
    bases = random_chains(tmp_path / "a.chain", lengths, seed)
    back = [(theirs, ours) for ours, theirs in bases]
    leaks = homology_leaks(datasets, [("finch", "perch", tmp_path / "a.chain")], min_aligned=7)
    assert {(leak.species, leak.split) for leak in leaks} == {
        (name, split) for name in datasets for split in ("valid", "test")
    }
    for leak in leaks:
        held, trained, pairs = (
            (finch, perch, bases) if leak.species == "finch" else (perch, finch, back)
        )
        counts = plain_count(held, trained, pairs, leak.split)
        assert (leak.windows, leak.most_bp) == (len(counts), max(counts))
        assert leak.leaking == sum(count >= 7 for count in counts)
    assert sum(leak.leaking for leak in leaks) > 10


def test_duplications_of_one_species_count_both_ways(datasets, tmp_path):
    (tmp_path / "pairs.tsv").write_text(
        "chrI\t0\t100\tchrII\t0\t64\nchrIII\t0\t50\tchrI\t200\t250\n"
    )
    leaks = homology_leaks(datasets, [("finch", "finch", tmp_path / "pairs.tsv")])
    found = {leak.split: (leak.leaking, leak.worst) for leak in leaks}
    assert found == {"valid": (1, "chrII:0-128"), "test": (1, "chrIII:0-128")}


def test_pieces_of_contigs_have_no_length_to_compare(datasets, tmp_path):
    perch = datasets["perch"]
    manifest, _ = read_manifest(perch.path)
    contigs = [replace(c, whole=False) for c in manifest.contigs]
    pieces = SpeciesData(perch.path, manifest.model_copy(update={"contigs": contigs}), "hash")
    chain = tmp_path / "a.chain"
    chain.write_text("chain 1 chrII 2000 + 0 60 chrI 999999 + 0 60 1\n60\n")
    homology = [("finch", "perch", chain)]
    with pytest.raises(UserError, match="chrI has 999999 bp there, chrI of perch has 3000"):
        homology_leaks(datasets, homology)
    leaks = homology_leaks(datasets | {"perch": pieces}, homology)
    assert len(leaks) == 4


def test_unknown_species_are_named(datasets, tmp_path):
    with pytest.raises(UserError, match="no dataset of 'rat', only of finch, perch"):
        homology_leaks(datasets, [("finch", "rat", tmp_path / "x")])

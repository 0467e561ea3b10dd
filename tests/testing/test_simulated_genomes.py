import hashlib
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from spacescale.genome.bigwig import BigWig
from spacescale.genome.dna import encode, reverse_complement
from spacescale.genome.sequence_files import read_genome
from spacescale.genome.tracks import read_targets
from spacescale.splits.beds import read_split_bed
from spacescale.testing import simulated_genomes as sim

SCALE = 0.05


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return sim.write_simulated_genomes(tmp_path_factory.mktemp("genomes"), scale=SCALE)


def digests(folder) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def background(length: int = 3000) -> np.ndarray:
    """Sequence without any motif."""
    return np.zeros(length, dtype=np.uint8)


def planted(*sites: tuple[int, str]) -> np.ndarray:
    codes = background()
    for start, letters in sites:
        codes[start : start + len(letters)] = encode(letters)
    return codes


def motif(name: str) -> sim.Motif:
    return next(motif for motif in sim.MOTIFS if motif.name == name)


def row(signal: np.ndarray, species: str, identifier: str) -> np.ndarray:
    names = [track.identifier for track in sim.grammar_of(species).tracks]
    return signal[names.index(identifier)]


def test_same_seed_same_bytes(written, tmp_path):
    first = written[0].fasta.parents[1]
    sim.write_simulated_genomes(tmp_path / "again", scale=SCALE)
    sim.write_simulated_genomes(tmp_path / "other", seed=1, scale=SCALE)
    assert digests(tmp_path / "again") == digests(first)
    changed = digests(tmp_path / "other")
    assert all(changed[name] != digest for name, digest in digests(first).items() if ".bw" in name)


def test_files_are_what_the_package_reads(written):
    for species in written:
        genome = read_genome(species.fasta)
        tracks = read_targets(species.targets)
        assert [t.assay for t in tracks] == [t.assay for t in species.grammar.tracks]
        assert [t.strand_pair for t in tracks] == species.grammar.strand_pairs
        intervals = read_split_bed(species.contigs, genome.lengths, {})
        assert {i.split for i in intervals} == {"train", "valid", "test"}
        assert {i.chrom for i in intervals} == set(genome.lengths)
        for track in tracks:
            with BigWig(species.targets.parent / track.file) as bigwig:
                values = bigwig.read("chr5", 0, genome.lengths["chr5"])
            assert np.isfinite(values).all() and values.min() >= 0 and values.max() < 100


def test_full_size_gives_unequal_species_and_split_shares():
    sizes = [grammar.genome_bp for grammar in sim.SPECIES]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 3
    assert len({len(grammar.tracks) for grammar in sim.SPECIES}) == 3
    shares = Counter()
    for _, share, split in sim.CONTIG_SHARES:
        shares[split] += round(100 * share)
    assert shares == {"train": 80, "valid": 10, "test": 10}


def test_the_signal_is_written_with_little_noise(written):
    species = written[0]
    codes = read_genome(species.fasta).contigs["chr1"]
    truth = sim.expected_signal(codes, species.name)
    for expected, track in zip(truth, species.grammar.tracks, strict=True):
        with BigWig(species.fasta.parent / "signal" / f"{track.identifier}.bw") as bigwig:
            values = bigwig.read("chr1", 0, len(codes))
        usable = len(codes) // 32 * 32
        bins = [part[:usable].reshape(-1, 32).mean(1) for part in (expected, values)]
        assert 0.9 < np.corrcoef(*bins)[0, 1] < 0.995, track.identifier


def test_a_species_lacks_an_assay():
    assays = {g.name: {track.assay for track in g.tracks} for g in sim.SPECIES}
    assert assays["finch"] == {"dnase_atac", "tf_chip", "histone_chip", "cage"}
    assert assays["moth"] == assays["finch"] - {"histone_chip"}


@pytest.mark.parametrize("species", ["finch", "perch", "moth"])
def test_strand_symmetry(species, written):
    codes = read_genome(written[0].fasta).contigs["chr4"]
    forward = sim.expected_signal(codes, species)
    reverse = sim.expected_signal(reverse_complement(codes), species)
    pairs = sim.grammar_of(species).strand_pairs
    assert pairs != list(range(len(pairs)))
    np.testing.assert_allclose(reverse[pairs][:, ::-1], forward, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("private", ["finch_only", "perch_only", "moth_only"])
def test_a_private_motif_acts_in_its_species_only(private):
    codes = planted((1500, motif(private).full))
    for grammar in sim.SPECIES:
        signal = sim.expected_signal(codes, grammar.name)
        acts = bool((signal > sim.BACKGROUND + 1).any())
        assert acts == (grammar.name == private.removesuffix("_only"))


def test_a_promoter_speaks_on_its_strand_downstream():
    forward = sim.expected_signal(planted((1500, motif("promoter").full)), "finch")
    plus = row(forward, "finch", "cage_embryo_plus")
    assert plus.argmax() == 1504 + 80
    assert plus.max() == pytest.approx(12.0 + sim.BACKGROUND)
    assert row(forward, "finch", "cage_embryo_minus").max() == pytest.approx(sim.BACKGROUND)


def test_a_weak_motif_counts_half_and_a_partner_doubles():
    opener, partner = motif("opener"), motif("partner")

    def height(*sites: tuple[int, str]) -> float:
        signal = sim.expected_signal(planted(*sites), "perch")
        return float(row(signal, "perch", "chip_opener").max()) - sim.BACKGROUND

    alone = height((1500, opener.full))
    assert height((1500, opener.weak)) == pytest.approx(alone / 2)
    assert height((1500, opener.full), (1600, partner.full)) == pytest.approx(2 * alone)
    assert height((1500, opener.full), (1700, partner.full)) == pytest.approx(alone)
    assert height((1500, partner.full)) == pytest.approx(0.0, abs=1e-6)


def test_motifs_are_oriented_and_distinct():
    forms = [encode(letters) for m in sim.MOTIFS for letters in (m.full, m.weak)]
    assert all(len(form) % 2 for form in forms)
    texts = [form.tobytes() for form in forms]
    texts += [reverse_complement(form).tobytes() for form in forms]
    assert len(set(texts)) == len(texts)
    assert sum(m.share for m in sim.MOTIFS) == pytest.approx(1.0)


def test_short_sequences_have_only_background():
    signal = sim.expected_signal(encode("ACGTN"), "moth")
    assert signal.shape == (4, 5) and signal.dtype == np.float32
    assert (signal == np.float32(sim.BACKGROUND)).all()


def test_strand_pairs_follow_descriptions():
    moth = sim.grammar_of("moth")
    assert moth.strand_pairs == [0, 1, 3, 2]
    assert replace(moth, tracks=moth.tracks[::-1]).strand_pairs == [1, 0, 2, 3]

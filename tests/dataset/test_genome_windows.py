"""Windows anywhere: where they lie, what they hold, and that only data, seed and number decide."""

import pickle
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from small_genomes import LENGTHS, genome_options, letters_of, small_genome, write_fasta
from torch.utils.data import DataLoader

from spacescale.dataset.genome_windows import GenomeWindows, WindowChoice
from spacescale.dataset.sampler import SampleOrder
from spacescale.dataset.species_genome import SpeciesGenome
from spacescale.errors import UserError
from spacescale.genome.dna import encode, reverse_complement
from spacescale.prepare.genome_dataset import make_genome

CHOICE = WindowChoice(longest=200, shortest=30, longest_share=0.5, seed=3)
# Held-out stretches within contigs, and bases that nobody may use.
SPLITS = "chrI\t0\t900\ttrain\nchrI\t900\t1500\ttest\nchrI\t1600\t3001\ttrain\n"
SPLITS += "chrII\t0\t1000\tvalid\nchrII\t1000\t2000\ttrain\nchrM\t5\t25\ttrain\n"


@pytest.fixture(scope="module")
def genome(tmp_path_factory):
    folder = tmp_path_factory.mktemp("genome")
    (folder / "splits.bed").write_text(SPLITS)
    splits = {"valid_chroms": (), "test_chroms": (), "contigs": folder / "splits.bed"}
    return small_genome(folder, **splits)


def key(window):
    return window.chrom, window.start, window.end, window.on_reverse_strand


def test_a_window_is_what_one_strand_of_its_place_reads(genome):
    windows = GenomeWindows(genome, "train", CHOICE)
    strands = set()
    for n in range(200):
        window = windows[n]
        letters = letters_of(window.chrom, LENGTHS[window.chrom])[window.start : window.end]
        codes = encode(letters, whole=False)
        lower = np.frombuffer(letters, np.uint8) >= ord("a")
        if window.on_reverse_strand:
            codes, lower = reverse_complement(codes), lower[::-1]
        assert np.array_equal(window.codes, codes) and np.array_equal(window.repeats, lower)
        assert window.flipped().flipped().codes.tolist() == window.codes.tolist()
        strands.add(window.on_reverse_strand)
    assert strands == {False, True}
    forward = GenomeWindows(genome, "train", replace(CHOICE, reverse_complement=False))
    assert not any(forward[n].on_reverse_strand for n in range(50))


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_no_window_holds_a_base_of_another_split(genome, split):
    """Held-out stretches of a contig stay held out, as held-out contigs do."""
    windows = GenomeWindows(genome, split, CHOICE)
    seen = set()
    for window in [*map(windows.__getitem__, range(1500)), *windows.tiles()]:
        assert genome.in_split(split, window.chrom, window.start, window.end).all()
        seen.update((window.chrom, base) for base in range(window.start, window.end))
    # All of it is seen but what has too many N around it, and the stretch too short for a window.
    usable = {
        (s.chrom, base)
        for s in genome.stretches(split).intervals()
        for base in range(s.start, s.end)
        if s.end - s.start >= 30 and not (s.chrom == "chrI" and 980 <= base < 1420)
    }
    assert len(usable - seen) < 0.01 * len(usable)
    assert ("chrM", 10) not in seen


def test_only_seed_species_stream_and_number_decide(genome, tmp_path):
    windows = GenomeWindows(genome, "train", CHOICE)
    expected = [key(windows[n]) for n in range(60)]
    again = GenomeWindows(SpeciesGenome.open(genome.path), "train", CHOICE)
    assert [key(again[n]) for n in reversed(range(60))] == expected[::-1]
    for other in (replace(CHOICE, seed=4), replace(CHOICE, stream="kmer")):
        different = GenomeWindows(genome, "train", other)
        assert [key(different[n]) for n in range(60)] != expected
    fasta = write_fasta(tmp_path / "genome.fa")
    splits = {
        "valid_chroms": (),
        "test_chroms": (),
        "contigs": genome.path.parents[1] / "splits.bed",
    }
    options = genome_options(fasta, tmp_path / "out", species="other", **splits)
    other_species = GenomeWindows(SpeciesGenome.open(make_genome(options)), "train", CHOICE)
    assert [key(other_species[n]) for n in range(60)] != expected


@pytest.mark.parametrize("world_size, micro_batch_size", [(1, 4), (2, 2), (4, 1), (2, 4)])
def test_any_number_of_processes_reads_the_same_windows(genome, world_size, micro_batch_size):
    """Also when the first of them were read before a stop, by others: nothing is remembered."""
    windows = {"tiny": GenomeWindows(genome, "train", CHOICE)}
    others = {"tiny": GenomeWindows(genome, "train", CHOICE)}
    order = SampleOrder(
        seed=CHOICE.seed,
        num_windows={"tiny": len(windows["tiny"]), "else": 7},
        balance=0.5,
        micro_batch_size=micro_batch_size,
        world_size=world_size,
        shift_bp=0,
        reverse_complement=False,
    )
    found = []
    for micro_step in range(48 // (world_size * micro_batch_size)):
        for rank in range(world_size):
            known = windows if micro_step < 3 else others
            draws = order.draws(micro_step, rank)
            found += [key(known[d.species][d.number]) for d in draws if d.species in known]
    assert sorted(found) == sorted(key(others["tiny"][n]) for n in range(len(found)))
    assert len(found) > 20


def test_draws_of_a_run_name_the_tile_that_is_read(genome):
    """What `times_drawn` says of tiles is true of windows, too."""
    windows = GenomeWindows(genome, "train", replace(CHOICE, max_unknown=1.0))
    sizes = {"tiny": len(windows)}
    order = SampleOrder(CHOICE.seed, sizes, 0.5, 1, 1, shift_bp=0, reverse_complement=False)
    for step in range(2 * len(windows)):
        draw = order.draws(step, 0)[0]
        random = np.random.default_rng([*windows._key, draw.number, 0])
        assert key(windows._draw(draw.window, random)) == key(windows[draw.number])


def test_an_epoch_draws_every_tile_once(genome):
    choice = WindowChoice(longest=100, seed=1, reverse_complement=False, max_unknown=1.0)
    windows = GenomeWindows(genome, "train", choice)
    assert len(windows) == 9 + 14 + 10 and windows.num_bases == 900 + 1401 + 1000
    for epoch in range(3):
        starts = sorted(key(windows[n + epoch * 33])[:2] for n in range(33))
        places = [start for chrom, start in starts if chrom == "chrII"]
        # 901 places for a window, in ten parts as equal as can be
        assert [(start - 1000) * 10 // 901 for start in places] == list(range(10))
    orders = [[key(windows[n + epoch * 33]) for n in range(33)] for epoch in range(2)]
    assert orders[0] != orders[1]


def test_lengths_are_as_asked_for(genome):
    windows = GenomeWindows(genome, "train", CHOICE)
    lengths = np.array([windows[n].codes.size for n in range(2000)])
    assert lengths.min() >= 30 and lengths.max() == 200
    assert 0.47 < np.mean(lengths == 200) < 0.54
    others = lengths[lengths < 200]
    assert 0.45 < np.mean(others < 115) < 0.55
    fixed = GenomeWindows(genome, "train", WindowChoice(longest=150))
    assert {fixed[n].codes.size for n in range(100)} == {150}
    # tiles of another length change their number alone
    assert len(GenomeWindows(genome, "train", WindowChoice(longest=150, tile=50))) > 2 * len(fixed)


def test_a_stretch_shorter_than_a_window_gives_one_of_its_own_length(genome):
    windows = GenomeWindows(genome, "train", WindowChoice(longest=300, shortest=20))
    lengths = {windows[n].codes.size for n in range(200) if windows[n].chrom == "chrM"}
    assert lengths == {20}


def test_windows_with_many_unknown_bases_are_drawn_again(genome):
    choice = WindowChoice(longest=80, seed=3)
    strict = GenomeWindows(genome, "test", choice)
    assert all(strict[n].unknown_share <= 0.1 for n in range(300))
    assert all(window.unknown_share <= 0.1 for window in strict.tiles())
    lax = GenomeWindows(genome, "test", replace(choice, max_unknown=1.0))
    assert any(lax[n].unknown_share > 0.1 for n in range(300))
    # one that is sound as first drawn is the same in both
    same = [n for n in range(300) if lax[n].unknown_share <= 0.1]
    assert [key(lax[n]) for n in same] == [key(strict[n]) for n in same]


def test_where_all_is_unknown_a_window_is_refused(tmp_path):
    contigs = {"a": b"N" * 900 + b"ACGTA" * 2, "b": b"ACGT" * 50, "c": b"ACGT" * 50}
    fasta = write_fasta(tmp_path / "genome.fa", **contigs)
    splits = {"valid_chroms": ("b",), "test_chroms": ("c",)}
    genome = SpeciesGenome.open(make_genome(genome_options(fasta, tmp_path / "out", **splits)))
    windows = GenomeWindows(genome, "train", WindowChoice(longest=100))
    with pytest.raises(UserError, match=r"1000 windows of train all have more than 10 % N"):
        windows[0]
    assert not list(windows.tiles())


def test_tiles_lie_apart_forward_and_in_order(genome):
    windows = GenomeWindows(genome, "train", WindowChoice(longest=100, max_unknown=1.0))
    tiles = [key(window) for window in windows.tiles()]
    assert len(tiles) == len(windows) and not any(reverse for *_, reverse in tiles)
    for chrom in ("chrI", "chrII"):
        here = [(start, end) for c, start, end, _ in tiles if c == chrom]
        assert all(before[1] <= after[0] for before, after in pairwise(here))
    assert tiles[8] == ("chrI", 800, 900, False)


@pytest.mark.long
def test_reader_processes_read_the_same_windows(genome):
    windows = GenomeWindows(genome, "train", CHOICE)
    small = pickle.dumps(windows)
    assert len(small) < 1000
    loader = DataLoader(
        windows,
        batch_size=None,
        sampler=range(5, 25),
        num_workers=2,
        multiprocessing_context="spawn",
    )
    assert [key(window) for window in loader] == [key(windows[n]) for n in range(5, 25)]


@pytest.mark.parametrize(
    "choice, message",
    [
        ({"longest": 0}, r"windows of 0 to 0 bp: lengths must be at least 1"),
        ({"longest": 10, "shortest": 11}, "windows of 11 to 10 bp"),
        ({"longest": 10, "tile": 0}, "tile 0 must be at least 1"),
        ({"longest": 10, "longest_share": 1.5}, "longest_share 1.5 must be from 0 to 1"),
        ({"longest": 10, "max_unknown": -1}, "max_unknown -1 must be from 0 to 1"),
    ],
)
def test_bad_choices_are_refused(choice, message):
    with pytest.raises(UserError, match=message):
        WindowChoice(**choice)


def test_splits_without_room_for_a_window_are_refused(genome):
    message = r"no stretch of valid has 1,001 bp, as a window needs; the longest has 1,000"
    with pytest.raises(UserError, match=message):
        GenomeWindows(genome, "valid", WindowChoice(longest=1001))
    with pytest.raises(UserError, match="no sequence of a split 'excluded'"):
        GenomeWindows(genome, "excluded", CHOICE)
    with pytest.raises(IndexError):
        GenomeWindows(genome, "valid", CHOICE)[-1]

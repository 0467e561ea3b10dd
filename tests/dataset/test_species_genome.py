"""The sequence of datasets, with and without tracks: bases, splits, letter case, versions."""

import multiprocessing
import pickle
import shutil

import numpy as np
import pytest
from small_genomes import LENGTHS, as_version_2, letters_of, small_genome
from small_inputs import small_options, write_inputs

from spacescale.dataset import species_genome
from spacescale.dataset.folder import list_files
from spacescale.dataset.loader import open_datasets, open_genomes
from spacescale.dataset.manifest import read_manifest, save_manifest
from spacescale.dataset.reader import SpeciesData, open_species, reopen
from spacescale.dataset.schema import EXCLUDED
from spacescale.dataset.species_genome import SpeciesGenome, same_splits
from spacescale.errors import UserError
from spacescale.genome.dna import encode
from spacescale.genome.intervals import Interval
from spacescale.prepare.stages import make_dataset


@pytest.fixture(scope="module")
def genome(tmp_path_factory):
    return small_genome(tmp_path_factory.mktemp("genome"))


@pytest.fixture(scope="module")
def with_tracks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    return make_dataset(small_options(folder, folder / "out"))


@pytest.mark.parametrize("keep", [True, False])
def test_bases_and_letter_case_are_those_of_the_fasta(genome, monkeypatch, keep):
    if not keep:  # as of a genome that is too large for memory
        monkeypatch.setattr(species_genome, "_KEEP_GENOME_BP", 10)
    opened = SpeciesGenome.open(genome.path)
    for name, length in LENGTHS.items():
        letters = letters_of(name, length)
        for start, end in ((0, length), (0, 1), (7, 9), (length - 3, length), (50, 50)):
            assert np.array_equal(opened.codes(name, start, end), encode(letters)[start:end])
            lower = np.frombuffer(letters, np.uint8)[start:end] >= ord("a")
            found = opened.repeats(name, start, end)
            assert found.dtype == bool and np.array_equal(found, lower)
    assert opened.has_repeats


def test_bases_that_are_not_stored_are_refused(genome):
    for place in (("chrII", 1990, 2001), ("chrX", 0, 1)):
        with pytest.raises(UserError, match=f"the stored sequence of {place[0]} does not hold"):
            genome.codes(*place)
        with pytest.raises(UserError, match=f"the stored sequence of {place[0]} does not hold"):
            genome.repeats(*place)


def test_stretches_of_a_split(genome):
    assert genome.stretches("train").intervals() == [
        Interval("chrI", 0, 3001, "train"),
        Interval("chrM", 0, 403, "train"),
    ]
    assert genome.bases_of_splits() == {"train": 3404, "valid": 2000, "test": 1500}
    for split in ("fold1", EXCLUDED):
        with pytest.raises(UserError, match=f"no sequence of a split '{split}'; it has train, va"):
            genome.stretches(split)


def test_in_split_says_which_bases_of_a_window_may_be_used(tmp_path):
    bed = tmp_path / "splits.bed"
    bed.write_text("chrI\t0\t100\ttrain\nchrI\t120\t200\ttest\nchrII\t0\t9\tvalid\n")
    genome = small_genome(tmp_path, valid_chroms=(), test_chroms=(), contigs=bed)
    expected = [0 <= base < 100 for base in range(-5, 205)]
    assert genome.in_split("train", "chrI", -5, 205).tolist() == expected
    expected = [120 <= base < 200 for base in range(-5, 205)]
    assert genome.in_split("test", "chrI", -5, 205).tolist() == expected
    assert not genome.in_split("train", "chrII", 0, 50).any()
    assert not genome.in_split(EXCLUDED, "chrI", 100, 120).any()


def test_a_species_without_tracks_is_refused_where_profiles_are_asked_for(genome):
    message = r"'tiny' has no tracks: it is a genome alone, to be trained on as bases or tokens"
    with pytest.raises(UserError, match=message):
        SpeciesData.open(genome.path)
    with pytest.raises(UserError, match=message):
        open_datasets([genome.path])


def test_species_with_and_without_tracks_are_opened_together(genome, with_tracks, tmp_path):
    shutil.copytree(genome.path, tmp_path / "a")
    shutil.copytree(with_tracks, tmp_path / "b")
    manifest, _ = read_manifest(tmp_path / "b")
    save_manifest(tmp_path / "b", manifest.model_copy(update={"species": "other"}))
    opened = open_genomes([tmp_path])
    assert [type(data) for data in opened.values()] == [SpeciesGenome, SpeciesData]
    assert list(opened) == ["tiny", "other"]
    with pytest.raises(UserError, match="species 'tiny' is given twice"):
        open_genomes([tmp_path, genome.path])


def test_version_2_is_read_as_before_and_its_targets_are_its_sequence(with_tracks, tmp_path):
    old = SpeciesData.open(as_version_2(with_tracks, tmp_path / "old"))
    new = SpeciesData.open(with_tracks)
    for row in range(len(new)):
        assert np.array_equal(old.targets(row), new.targets(row))
        assert np.array_equal(old.sequence(row), new.sequence(row))
    assert old.manifest.split == new.manifest.split and not old.has_repeats
    for split in ("train", "valid", "test"):
        targets = [w for w in old.windows.intervals() if w.split == split]
        assert old.bases_of_splits()[split] == sum(w.end - w.start for w in targets)
        covered = sum(int(old.in_split(split, w.chrom, w.start, w.end).sum()) for w in targets)
        assert covered == old.bases_of_splits()[split]
    assert old.bases_of_splits()[EXCLUDED] > new.bases_of_splits().get(EXCLUDED, 0)
    assert not old.repeats("chrI", 0, 100).any()


def test_without_lower_case_there_are_no_repeats(with_tracks):
    data = open_species(with_tracks)
    assert not data.has_repeats and not (with_tracks / "repeats").exists()
    assert not data.repeats("chrI", 10, 30).any()


def test_what_is_missing_or_damaged_is_told(genome, tmp_path):
    copy = shutil.copytree(genome.path, tmp_path / "tiny")
    opened = SpeciesGenome.open(copy)
    (copy / "repeats/c/0").unlink()
    with pytest.raises(UserError, match=r"repeats is damaged: a chunk is missing"):
        opened.repeats("chrI", 0, 10)
    with pytest.raises(UserError, match=r"repeats/c/0 is missing"):
        SpeciesGenome.open(copy)
    copy = shutil.copytree(genome.path, tmp_path / "other")
    text = (copy / "sequence.bed").read_text()
    (copy / "sequence.bed").write_text(text.replace("valid", "train"))
    with pytest.raises(UserError, match=r"sequence.bed differs from its SHA-256"):
        SpeciesGenome.open(copy)
    (copy / "sequence.bed").write_text("chrI\tx\n")
    save_manifest(copy, read_manifest(copy)[0].model_copy(update={"files": list_files(copy)}))
    with pytest.raises(UserError, match=r"sequence.bed is damaged"):
        SpeciesGenome.open(copy).stretches("train")


def test_another_dataset_than_was_opened_first_is_refused(genome, tmp_path):
    copy = shutil.copytree(genome.path, tmp_path / "tiny")
    assert type(reopen(copy, genome.manifest_hash)) is SpeciesGenome
    save_manifest(copy, read_manifest(copy)[0].model_copy(update={"species": "other"}))
    with pytest.raises(UserError, match="another dataset than when the run began"):
        reopen(copy, genome.manifest_hash)


def test_splits_are_those_of_windows_and_where_it_matters_of_bases(with_tracks, tmp_path):
    """Other contigs may train on bases while windows are the same."""
    data = open_species(with_tracks)
    assert data.manifest.sequence
    other = shutil.copytree(with_tracks, tmp_path / "other")
    sequence = data.manifest.sequence.model_copy(update={"hash": "0" * 64})
    save_manifest(other, data.manifest.model_copy(update={"sequence": sequence}))
    opened = open_species(other)
    whole, windows = (data.splits_identity(of_bases=flag) for flag in (True, False))
    assert not same_splits(opened.splits_identity(of_bases=True), whole)
    assert same_splits(opened.splits_identity(of_bases=True), windows)
    assert same_splits(windows, whole) and not same_splits(windows, "0" * 64)


def test_splits_of_bases_are_known_of_older_data_too(with_tracks, tmp_path):
    older = open_species(as_version_2(with_tracks, tmp_path / "older"))
    assert older.manifest.sequence is None
    windows, _, bases = older.splits_identity(of_bases=True).partition("+")
    assert windows == older.manifest.split.hash and len(bases) == 64


def read_some(genome: SpeciesGenome, queue) -> None:
    queue.put((genome.codes("chrI", 0, 99), genome.repeats("chrI", 0, 99)))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_what_the_parent_reads(genome, method):
    opened = SpeciesGenome.open(genome.path)
    fresh = pickle.dumps(opened)
    expected = opened.codes("chrI", 0, 99), opened.repeats("chrI", 0, 99)
    assert pickle.dumps(opened) == fresh  # bases are left behind
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    worker = context.Process(target=read_some, args=(opened, queue))
    worker.start()
    found = queue.get(timeout=60)
    worker.join()
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))

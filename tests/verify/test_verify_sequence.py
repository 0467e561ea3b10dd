"""What is said of the sequence is held against it, with and without tracks."""

import shutil

import numpy as np
import pytest
import zarr
from commands import DATA_PREP, run_here
from small_datasets import write_small_dataset
from small_genomes import small_genome

from spacescale.dataset.folder import list_files
from spacescale.dataset.manifest import read_manifest, save_manifest
from spacescale.dataset.schema import SequenceInfo
from spacescale.dataset.sequence_splits import sequence_hash
from spacescale.dataset.species_genome import SpeciesGenome
from spacescale.verify.check import verify, verify_species

VERIFY = DATA_PREP / "verify.py"


@pytest.fixture(scope="module")
def genome(tmp_path_factory):
    return small_genome(tmp_path_factory.mktemp("genome"))


@pytest.fixture
def copy(genome, tmp_path):
    return shutil.copytree(genome.path, tmp_path / "tiny")


def sealed(folder, **changes):
    """Make the checksums right, whatever the folder holds."""
    manifest = read_manifest(folder)[0].model_copy(update={"files": list_files(folder), **changes})
    save_manifest(folder, manifest)
    return [str(finding) for finding in verify_species(folder) if finding.severity == "error"]


def rehashed(folder):
    """The same, with the hash of what sequence.bed says."""
    stretches = SpeciesGenome.open(folder).sequence_table.intervals()
    told = read_manifest(folder)[0].sequence
    info = SequenceInfo(hash=sequence_hash(stretches), lower_case=told.lower_case)
    return sealed(folder, sequence=info)


def edit_table(folder, old, new):
    path = folder / "sequence.bed"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    sealed(folder)


def test_a_sound_genome_has_no_finding(copy):
    assert verify_species(copy) == [] == sealed(copy)
    done = run_here(VERIFY, copy)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{copy}: sound, 0 errors, 0 warnings")


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("chrI\t0\t3001\ttrain\n", "", "gives chrI:0 no split, or more than one"),
        ("chrI\t0\t3001", "chrI\t0\t3000", "gives chrII:0|gives chrI:3000 no split"),
        ("chrI\t0\t3001", "chrI\t0\t3002", "gives chrI bases up to 3002, it has them up to 3001"),
        ("chrII\t0\t2000\tvalid", "chrII\t0\t9\tvalid\nchrII\t5\t2000\ttest",
         "gives chrII:9 no split, or more than one"),
        ("chrM\t0\t403\ttrain\n", "chrM\t0\t403\ttrain\nchrX\t0\t9\ttrain\n",
         "lists chrX:0, which is not stored"),
    ],
)  # fmt: skip
def test_a_table_that_does_not_tile_the_contigs(copy, old, new, message):
    edit_table(copy, old, new)
    (text,) = rehashed(copy)
    assert any(part in text for part in message.split("|"))


def test_another_split_than_the_hash_says(copy):
    edit_table(copy, "valid", "train")
    (text,) = sealed(copy)
    assert "sequence.bed: does not have the hash of the sequence that the manifest says" in text


def test_letter_case_that_was_changed(copy):
    array = zarr.open_array(copy / "repeats", mode="r+")
    bits = np.asarray(array[:])
    bits[0] ^= 1
    array[:] = bits
    (text,) = sealed(copy)
    assert "repeats is damaged" in text


def test_letter_case_of_a_large_genome_is_counted(copy, monkeypatch):
    monkeypatch.setattr("spacescale.dataset.species_genome._KEEP_GENOME_BP", 10)
    told = read_manifest(copy)[0].sequence
    (text,) = sealed(copy, sequence=told.model_copy(update={"lower_case": 7}))
    assert "marks 1,3" in text and "the manifest says 7" in text


@pytest.mark.parametrize("name", ["repeats/c/0", "sequence.bed", "genome/c/0"])
def test_files_that_are_missing_or_damaged(copy, name):
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    errors = [f for f in verify_species(copy) if f.severity == "error"]
    assert any(f.check == "files" and f.file == copy / name for f in errors)
    (copy / name).unlink()
    errors = [f for f in verify_species(copy) if f.severity == "error"]
    assert any(f.file == copy / name and "is missing" in f.what for f in errors)


def test_files_that_should_or_should_not_be_there(copy):
    (copy / "sequence.bed").rename(copy / "extra")
    errors = sealed(copy)
    assert any("sequence.bed: should be there, but is not in the manifest" in e for e in errors)
    assert any("extra: is in the manifest, but no part of such a dataset" in e for e in errors)


def test_a_folder_that_lost_its_manifest_is_named(copy):
    (copy / "manifest.json").unlink()
    found = verify(copy)
    assert [f.what for f in found[copy]] == ["is missing: copy the dataset again"]


def test_a_target_in_the_sequence_of_another_split(tmp_path):
    folder = write_small_dataset(tmp_path / "tiny")
    assert sealed(folder) == []
    edit_table(folder, "chrI\t0\t2944\ttrain", "chrI\t0\t100\ttrain\nchrI\t100\t2944\ttest")
    (text,) = rehashed(folder)
    assert "test of chrI: holds the target of row 0 (train: chrI:0-128)" in text


def test_genomes_and_species_with_tracks_are_checked_side_by_side(copy, tmp_path):
    write_small_dataset(tmp_path / "a")
    write_small_dataset(tmp_path / "z", bin_size=32, target_length=4)
    found = verify(tmp_path)
    assert found[copy] == []
    assert any("bin_size is 32, 16 in" in f.what for f in found[tmp_path / "z"])

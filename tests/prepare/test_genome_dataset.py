"""Species without tracks, from a FASTA to a folder: contents, splits, stops, bad input."""

import errno
import os

import numpy as np
import pytest
from small_genomes import LENGTHS, genome_options, letters_of, small_genome, write_fasta

from spacescale.dataset.manifest import read_manifest
from spacescale.dataset.schema import EXCLUDED, GenomeManifest
from spacescale.dataset.species_genome import SpeciesGenome
from spacescale.errors import UserError
from spacescale.genome.intervals import Interval, split_hash
from spacescale.prepare.genome_dataset import estimate_genome, make_genome
from spacescale.prepare.work_folder import WorkFolder
from spacescale.verify.check import verify_species

GENOME = "spacescale.prepare.genome_dataset"
PLAN = "spacescale.prepare.work_folder.WorkFolder"
NO_SPLITS = {"valid_chroms": (), "test_chroms": ()}


@pytest.fixture
def fasta(tmp_path):
    return write_fasta(tmp_path / "genome.fa")


def contents(folder):
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_the_folder_is_what_the_readme_says(tmp_path):
    genome = small_genome(tmp_path)
    assert sorted(contents(genome.path)) == [
        "genome/c/0", "genome/zarr.json", "manifest.json", "repeats/c/0", "repeats/zarr.json",
        "sequence.bed", "zarr.json",
    ]  # fmt: skip
    manifest = read_manifest(genome.path)[0]
    assert type(manifest) is GenomeManifest and manifest.format_version == 3
    assert [c.name for c in manifest.contigs] == list(LENGTHS)
    assert manifest.split.settings == {"valid": ["chrII"], "test": ["chrIII"]}
    stretches = genome.sequence_table.intervals()
    assert split_hash(stretches) == manifest.split.hash
    lower = sum(letters_of(n, bp).upper() != letters_of(n, bp) for n, bp in LENGTHS.items())
    assert lower == len(LENGTHS) and manifest.sequence
    counts = [letters_of(n, bp) for n, bp in LENGTHS.items()]
    assert manifest.sequence.lower_case == sum(sum(c >= 97 for c in letters) for letters in counts)
    assert verify_species(genome.path) == []
    assert str(tmp_path) not in (genome.path / "manifest.json").read_text()


def test_2bit_and_fasta_give_the_same_bytes_and_so_do_two_runs(tmp_path, fasta):
    first = make_genome(genome_options(fasta, tmp_path / "a"))
    again = make_genome(genome_options(fasta, tmp_path / "b"))
    assert contents(first) == contents(again)


def test_parts_of_a_contig_may_be_held_out_and_the_rest_is_excluded(tmp_path):
    bed = tmp_path / "s.bed"
    bed.write_text(
        "chrI\t0\t800\ttrain\nchrI\t800\t1000\tvalid\nchrI\t1500\t2000\texcluded\n"
        "chrII\t0\t2000\ttest\n"
    )
    genome = small_genome(tmp_path, **NO_SPLITS, contigs=bed, margin=100)
    assert genome.sequence_table.intervals() == [
        Interval("chrI", 0, 700, "train"),
        Interval("chrI", 700, 800, EXCLUDED),
        Interval("chrI", 800, 1000, "valid"),
        Interval("chrI", 1000, 3001, EXCLUDED),
        Interval("chrII", 0, 2000, "test"),
        Interval("chrIII", 0, 1500, EXCLUDED),
        Interval("chrM", 0, 403, EXCLUDED),
    ]
    assert genome.manifest.report.unassigned == ["chrIII", "chrM"]
    assert genome.manifest.sources.split_bed and genome.manifest.sources.split_bed.name == "s.bed"
    assert verify_species(genome.path) == []


def test_without_splits_two_contigs_are_held_out_or_none(tmp_path):
    genome = small_genome(tmp_path / "a", **NO_SPLITS)
    assert genome.manifest.split.method == "held_out"
    assert set(genome.bases_of_splits()) == {"train", "valid", "test"}
    assert "no split was given" in genome.manifest.report.warnings[0]
    genome = small_genome(tmp_path / "b", **NO_SPLITS, all_train=True)
    assert genome.manifest.split.method == "all_train"
    assert genome.bases_of_splits() == {"train": sum(LENGTHS.values())}


def test_random_blocks_deal_all_contigs(tmp_path):
    genome = small_genome(tmp_path, **NO_SPLITS, random_blocks=200)
    bases = genome.bases_of_splits()
    assert set(bases) == {"train", "valid", "test"} and sum(bases.values()) == sum(LENGTHS.values())


@pytest.mark.parametrize("aliases", ["auto", "file"])
def test_names_of_splits_may_be_in_another_style(tmp_path, aliases):
    (tmp_path / "aliases.tsv").write_text("II\tchrII\nIII\tchrIII\nX\tchrM\n")
    given = tmp_path / "aliases.tsv" if aliases == "file" else aliases
    splits = {"valid_chroms": ("II",), "test_chroms": ("III",)}
    genome = small_genome(tmp_path, **splits, aliases=given)
    assert genome.manifest.aliases == {"II": "chrII", "III": "chrIII"}
    assert genome.stretches("valid").intervals() == [Interval("chrII", 0, 2000, "valid")]


def test_a_genome_all_in_lower_case_tells_no_repeats(tmp_path):
    sequences = {n: letters_of(n, bp).lower() for n, bp in LENGTHS.items()}
    fasta = write_fasta(tmp_path / "low.fa", **sequences)
    genome = SpeciesGenome.open(make_genome(genome_options(fasta, tmp_path / "out")))
    assert not genome.has_repeats and not (genome.path / "repeats").exists()
    assert genome.manifest.report.warnings == [
        "every base is in lower case: that tells no repeats, so none are kept"
    ]


def test_many_contigs_across_shards_keep_their_bases_and_case(tmp_path, monkeypatch):
    """Contigs that begin and end within bytes and shards of `repeats`."""
    for module in ("spacescale.prepare.sequence", "spacescale.verify.sequence"):
        monkeypatch.setattr(f"{module}.GENOME_CHUNK_BP", 16)
    monkeypatch.setattr("spacescale.prepare.sequence.GENOME_SHARD_BP", 64)
    letters = np.random.default_rng(0).choice(np.frombuffer(b"ACGTacgtn", np.uint8), 120 * 37)
    parts = [part[: 1 + i * 7 % 37] for i, part in enumerate(np.split(letters, 120))]
    sequences = {f"c{i}": part.tobytes() for i, part in enumerate(parts)}
    fasta = write_fasta(tmp_path / "g.fa", **sequences)
    options = genome_options(fasta, tmp_path / "out", **NO_SPLITS, all_train=True)
    genome = SpeciesGenome.open(make_genome(options))
    assert len(list((genome.path / "repeats/c").iterdir())) > 20
    for name, letters in sequences.items():
        lower = np.frombuffer(letters, np.uint8) >= ord("a")
        assert np.array_equal(genome.repeats(name, 0, len(letters)), lower)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.EIO, "broken")])
@pytest.mark.parametrize(
    "moment", [f"{GENOME}.write_sequence", f"{PLAN}.save_plan", f"{GENOME}.publish"]
)
def test_a_run_that_was_stopped_goes_on_with_the_same_result(
    tmp_path, fasta, monkeypatch, moment, error
):
    whole = contents(make_genome(genome_options(fasta, tmp_path / "whole")))
    options = genome_options(fasta, tmp_path / "out")
    with monkeypatch.context() as patch, pytest.raises(type(error)):
        patch.setattr(moment, raising(error))
        make_genome(options)
    assert not options.target.exists()
    dataset = WorkFolder.of(options.target).dataset
    if dataset.is_dir():  # what was being written when a process was killed
        (dataset / ".manifest.json.1.partial").touch()
    told = []
    assert contents(make_genome(options, notify=told.append)) == whole
    assert told == (["continuing: the genome is written"] if "publish" in moment else [])
    assert [path.name for path in options.out.iterdir()] == ["tiny"]


def raising(error):
    def stop(*_, **__):
        raise error

    return stop


def test_other_options_do_not_go_on_unless_they_begin_anew(tmp_path, fasta, monkeypatch):
    options = genome_options(fasta, tmp_path / "out")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(f"{GENOME}.publish", raising(KeyboardInterrupt))
        make_genome(options)
    other = {"valid_chroms": ("chrM",)}
    with pytest.raises(UserError, match=r"was begun with valid_chroms: \('chrII',\), now it is"):
        make_genome(genome_options(fasta, tmp_path / "out", **other))
    anew = make_genome(genome_options(fasta, tmp_path / "out", **other, overwrite=True))
    assert SpeciesGenome.open(anew).bases_of_splits()["valid"] == LENGTHS["chrM"]
    with pytest.raises(UserError, match="exists; add --overwrite"):
        make_genome(options)


def test_a_fasta_that_changes_during_the_run_is_refused(tmp_path, fasta, monkeypatch):
    options = genome_options(fasta, tmp_path / "out")
    monkeypatch.setattr(f"{GENOME}.write_manifest", lambda *_: os.utime(fasta, (1, 1)))
    with pytest.raises(UserError, match=r"genome.fa changed while the dataset was made"):
        make_genome(options)
    assert not (tmp_path / "out").exists()


def test_a_plan_tells_splits_and_writes_nothing(tmp_path, fasta):
    found = estimate_genome(genome_options(fasta, tmp_path / "out"))
    made = make_genome(genome_options(fasta, tmp_path / "made"))
    assert found.plan.sequence == SpeciesGenome.open(made).sequence_table.intervals()
    assert found.genome_bytes > 0 and found.seconds > 0
    assert not (tmp_path / "out").exists()


UNKNOWN_SPLIT = {"a": b"ACGT" * 50, "b": b"N" * 200, "c": b"ACGT" * 50}


@pytest.mark.parametrize(
    "sequences, changes, message",
    [
        ({"a": b"", "b": b"ACGT"}, {}, r"g\.fa: contig 'a' is empty"),
        ({"a": b"NNNN", "b": b"nn"}, {"all_train": True}, r"g\.fa: every base is N"),
        (UNKNOWN_SPLIT, {"test_chroms": ("b",)}, r"split test has no known base: .* of b is N"),
        (UNKNOWN_SPLIT, {"train_chroms": ("b",), "test_chroms": ("a",)}, "split train has no kn"),
        (UNKNOWN_SPLIT, {"test_chroms": ("z",)}, r"--test-chroms: the FASTA has no contig 'z'"),
        (UNKNOWN_SPLIT, {"test_chroms": ("a",), "valid_chroms": ("a",)},
         "contig a is in two splits, valid and test"),
        (UNKNOWN_SPLIT, {}, "no splits given; held-out contigs must be chosen by you"),
        (UNKNOWN_SPLIT, {"random_blocks": 50}, "random_blocks 50 is shorter than a target, 100 bp"),
        (UNKNOWN_SPLIT, {"test_chroms": ("a",), "all_train": True},
         "--all-train holds nothing out: leave the options of splits out"),
        (UNKNOWN_SPLIT, {"species": "a.b", "all_train": True}, "species 'a.b': use letters"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, sequences, changes, message):
    fasta = write_fasta(tmp_path / "g.fa", **sequences)
    with pytest.raises(UserError, match=message):
        make_genome(genome_options(fasta, tmp_path / "out", **(NO_SPLITS | changes)))
    assert not (tmp_path / "out").exists()


def test_stretches_that_a_margin_leaves_nothing_of_are_refused(tmp_path, fasta):
    bed = tmp_path / "s.bed"
    bed.write_text("chrI\t0\t800\ttrain\nchrI\t800\t1000\tvalid\n")
    options = genome_options(fasta, tmp_path / "out", **NO_SPLITS, contigs=bed, margin=900)
    with pytest.raises(
        UserError, match="split train has no base: all lie within the margin of 900"
    ):
        make_genome(options)


@pytest.mark.parametrize("content, message", [
    (None, r"no such FASTA or 2bit file: .*g\.fa"),
    (b"", r"g\.fa is an empty file"),
    (b">a\n>b\nACGT\n", r"g\.fa: contig 'a' is empty"),
    (b">a\nACGT\n>a\nACGT\n", r"contig 'a' occurs twice"),
    (b"@r\nACGT\n+\nIIII\n", "is a FASTQ file"),
])  # fmt: skip
def test_files_that_are_no_genome_are_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "g.fa").write_bytes(content)
    options = genome_options(tmp_path / "g.fa", tmp_path / "out", **NO_SPLITS, all_train=True)
    for make in (make_genome, estimate_genome):
        with pytest.raises(UserError, match=message):
            make(options)
    assert not (tmp_path / "out").exists()

"""`--whole-genome`: contigs without windows are stored, and who may use their sequence."""

import pytest
from small_genomes import as_version_2
from small_inputs import LENGTHS, small_options, write_fasta, write_inputs

from spacescale.dataset.loader import open_datasets
from spacescale.dataset.reader import SpeciesData
from spacescale.dataset.schema import EXCLUDED
from spacescale.genome.intervals import Interval
from spacescale.genome.sequence_files import read_genome
from spacescale.prepare.estimate import estimate
from spacescale.prepare.stages import STAGES, make_dataset, make_stage
from spacescale.prepare.tar_export import export_webdataset
from spacescale.verify.check import verify_species
from spacescale.verify.findings import has_errors

MORE = {"chrIV": 700, "chrV": 90}  # no track has them
NO_CHROMS = {"valid_chroms": (), "test_chroms": ()}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    write_fasta(folder / "genome.fa", LENGTHS | MORE)
    text = (folder / "genome.fa").read_text().replace("ACG", "acg")
    (folder / "genome.fa").write_text(text)
    return folder


def make(inputs, out, **changes) -> SpeciesData:
    return SpeciesData.open(make_dataset(small_options(inputs, out, **changes)))


@pytest.fixture(scope="module")
def plain(inputs, tmp_path_factory):
    return make(inputs, tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory):
    return make(inputs, tmp_path_factory.mktemp("whole"), whole_genome=True)


def test_windows_and_targets_are_as_without_it(inputs, plain, whole):
    for name in [*plain.manifest.files]:
        if name.startswith("targets/") or name in ("windows.bed", "tracks.tsv"):
            assert (plain.path / name).read_bytes() == (whole.path / name).read_bytes()
    assert plain.manifest.split == whole.manifest.split
    for row in range(len(plain)):
        assert plain.sequence(row, 500, 40).tolist() == whole.sequence(row, 500, 40).tolist()
    assert list(open_datasets([whole.path])) == ["tiny"]


def test_every_contig_is_stored_and_what_no_split_holds_out_trains(inputs, plain, whole):
    genome = read_genome(inputs / "genome.fa")
    assert [c.name for c in plain.manifest.contigs] == list(LENGTHS)
    assert whole.manifest.whole_contigs == LENGTHS | MORE
    for name, length in (LENGTHS | MORE).items():
        assert whole.codes(name, 0, length).tolist() == genome.contigs[name].tolist()
        assert whole.repeats(name, 0, length).tolist() == genome.lower_case(name).tolist()
    assert [i for i in whole.stretches("train").intervals() if i.chrom in MORE] == [
        Interval("chrIV", 0, 700, "train"),
        Interval("chrV", 0, 90, "train"),
    ]
    assert whole.bases_of_splits() == {"train": 4190, "valid": 2000, "test": 1500}
    assert plain.bases_of_splits() == {"train": 3400, "valid": 2000, "test": 1500}
    assert plain.has_repeats and verify_species(whole.path) == verify_species(plain.path) == []


def test_contigs_that_the_user_s_splits_leave_out_are_excluded_and_named(inputs, tmp_path):
    splits = {"train_chroms": ("chrI",), "valid_chroms": ("chrII",), "test_chroms": ("chrIII",)}
    data = make(inputs, tmp_path, whole_genome=True, **splits)
    assert data.bases_of_splits()[EXCLUDED] == 400 + sum(MORE.values())
    told = "the splits do not name chrM, chrIV, chrV, so none may use their 1,190 bases"
    assert f"--whole-genome: {told}" in data.manifest.report.warnings


def test_a_bed_may_give_contigs_without_tracks_to_a_split(inputs, tmp_path):
    bed = tmp_path / "splits.bed"
    rows = [("chrI", 0, 1930, "train"), ("chrI", 2500, 3000, "valid"), ("chrII", 0, 2000, "test"),
            ("chrIV", 0, 300, "train"), ("chrIV", 300, 700, "excluded")]  # fmt: skip
    bed.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    data = make(inputs, tmp_path, whole_genome=True, contigs=bed, **NO_CHROMS)
    assert data.stretches("train").intervals() == [
        Interval("chrI", 0, 1930, "train"),
        Interval("chrIV", 0, 300, "train"),
    ]
    # The input of a training window reaches into what is not its own.
    row = int(data.rows("train")[-1])
    start = int(data.windows.start[row]) - 32
    mine = data.in_split("train", "chrI", start, start + 192)
    assert mine.sum() == 1930 - start < 192
    assert not data.manifest.num_windows.get("excluded") and verify_species(data.path) == []


def test_random_blocks_leave_contigs_without_tracks_to_training(inputs, tmp_path):
    data = make(inputs, tmp_path, whole_genome=True, random_blocks=256, **NO_CHROMS)
    alone = make(inputs, tmp_path / "alone", random_blocks=256, **NO_CHROMS)
    assert data.manifest.split == alone.manifest.split
    train = data.stretches("train").intervals()
    assert {i.chrom for i in train} >= set(MORE)
    assert not has_errors(verify_species(data.path))


def test_a_margin_excludes_bases_of_training_that_are_near_to_others(inputs, tmp_path):
    bed = tmp_path / "splits.bed"
    bed.write_text("chrI\t0\t1500\ttrain\nchrI\t1500\t3000\tvalid\nchrII\t0\t2000\ttest\n")
    data = make(inputs, tmp_path, contigs=bed, margin=300, **NO_CHROMS)
    assert data.stretches("train").intervals() == [Interval("chrI", 0, 1200, "train")]
    assert data.stretches("valid").intervals() == [Interval("chrI", 1500, 3000, "valid")]
    assert verify_species(data.path) == []


def test_stages_and_processes_give_the_same_bytes(inputs, whole, tmp_path):
    options = small_options(inputs, tmp_path, whole_genome=True)
    for stage in STAGES:
        make_stage(options, stage)
    workers = make_dataset(small_options(inputs, tmp_path / "w", whole_genome=True, workers=2))
    for folder in (options.target, workers):
        for name in [*whole.manifest.files, "manifest.json"]:
            assert (folder / name).read_bytes() == (whole.path / name).read_bytes()


def test_a_plan_tells_the_sequence(inputs, whole, tmp_path):
    found = estimate(small_options(inputs, tmp_path / "out", whole_genome=True))
    assert found.plan.sequence == whole.sequence_table.intervals()
    assert not (tmp_path / "out").exists()


def test_tar_shards_keep_the_sequence(whole, tmp_path):
    copy = SpeciesData.open(export_webdataset(whole.path, tmp_path / "tar"))
    assert copy.bases_of_splits() == whole.bases_of_splits()
    assert copy.repeats("chrIV", 0, 700).tolist() == whole.repeats("chrIV", 0, 700).tolist()
    assert verify_species(copy.path) == []


def test_tar_shards_of_version_2_stay_version_2(plain, tmp_path):
    old = as_version_2(plain.path, tmp_path / "old")
    copy = SpeciesData.open(export_webdataset(old, tmp_path / "tar"))
    assert copy.manifest.format_version == 2
    assert verify_species(old) == verify_species(copy.path) == []

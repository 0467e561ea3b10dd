"""Ways to split, from the options to the windows and the manifest of a dataset."""

from collections import Counter
from pathlib import Path

import pytest
from small_inputs import small_options, write_inputs

from spacescale.dataset.reader import SpeciesData
from spacescale.errors import UserError
from spacescale.genome.intervals import split_hash
from spacescale.prepare.stages import make_dataset
from spacescale.splits.beds import read_split_bed, read_window_bed

METADATA = Path(__file__).parents[3] / "shared/data/_metadata"
HUMAN = METADATA.parent / "human_hg38"
needs_metadata = pytest.mark.skipif(not METADATA.is_dir(), reason="no data beside the repository")
NO_CHROMS = {"valid_chroms": (), "test_chroms": ()}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    return folder


def make(inputs, out, **changes) -> SpeciesData:
    return SpeciesData.open(make_dataset(small_options(inputs, out, **(NO_CHROMS | changes))))


def bed(folder, *rows):
    path = folder / "splits.bed"
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    return path


FOLDS = [("chrI", 0, 1000, "fold0"), ("chrI", 1200, 3000, "fold1"), ("chrII", 0, 2000, "fold2"),
         ("chrIII", 0, 1500, "fold3")]  # fmt: skip


def test_folds_become_splits(inputs, tmp_path):
    folds = bed(tmp_path, *FOLDS)
    data = make(inputs, tmp_path, contigs=folds, valid_folds=("fold3",), test_folds=("fold0",))
    split_of = set(zip(data.windows.chrom.tolist(), data.windows.split.tolist(), strict=True))
    assert split_of == {
        ("chrI", "test"),
        ("chrI", "train"),
        ("chrII", "train"),
        ("chrIII", "valid"),
    }
    split = data.manifest.split
    assert split.method == "bed"
    assert split.settings == {
        "intervals": "contigs", "valid_folds": ["fold3"], "test_folds": ["fold0"]}  # fmt: skip
    assert split.hash == split_hash(data.windows.intervals())


def test_folds_must_be_named_and_known(inputs, tmp_path):
    folds = bed(tmp_path, *FOLDS)
    message = (
        r"the splits are fold0, fold1, fold2, fold3; training needs one .* --valid-folds fold3"
    )
    with pytest.raises(UserError, match=message):
        make(inputs, tmp_path, contigs=folds)
    with pytest.raises(UserError, match="--test-folds fold9: the BED has fold0, fold1, fold2"):
        make(inputs, tmp_path, contigs=folds, test_folds=("fold9",))


WINDOWS = [("chrI", 0, 192, "train"), ("chrI", 64, 256, "train"), ("chrII", 1808, 2000, "valid"),
           ("chrII", 500, 692, "test"), ("chrII", 100, 292, "test")]  # fmt: skip


def test_windows_give_one_target_each_at_their_centre(inputs, tmp_path):
    data = make(inputs, tmp_path, windows=bed(tmp_path, *WINDOWS))
    rows = [(w.chrom, w.start, w.end, w.split) for w in data.windows.intervals()]
    assert rows == [
        ("chrI", 32, 160, "train"), ("chrI", 96, 224, "train"), ("chrII", 132, 260, "test"),
        ("chrII", 532, 660, "test"), ("chrII", 1840, 1968, "valid")]  # fmt: skip
    assert data.manifest.stride is None
    assert data.manifest.split.settings == {"intervals": "windows"}
    assert data.manifest.sources.split_bed.name == "splits.bed"


def test_one_target_in_two_splits_is_refused(inputs, tmp_path):
    path = bed(tmp_path, *WINDOWS, ("chrI", 100, 292, "test"))
    with pytest.raises(UserError, match=r"splits.bed:6: the target chrI:132-260 .* that of line 2"):
        make(inputs, tmp_path / "out", windows=path)
    assert not (tmp_path / "out").exists()


def test_random_blocks_are_recorded_and_repeatable(inputs, tmp_path):
    options = {"random_blocks": 128, "split_seed": 5, "valid_share": 0.2, "test_share": 0.1}
    data = make(inputs, tmp_path / "a", **options)
    assert data.manifest.split.method == "random_blocks"
    assert data.manifest.split.settings == {
        "block_bp": 128, "seed": 5, "valid_share": 0.2, "test_share": 0.1}  # fmt: skip
    total = len(data)
    assert data.manifest.num_windows["valid"] / total == pytest.approx(0.2, abs=0.05)
    assert data.manifest.num_windows["test"] / total == pytest.approx(0.1, abs=0.05)
    again = make(inputs, tmp_path / "b", **options)
    assert again.manifest.split == data.manifest.split
    other = make(inputs, tmp_path / "c", **(options | {"split_seed": 6}))
    assert other.manifest.split.hash != data.manifest.split.hash


def test_a_margin_keeps_contexts_out_of_other_splits(inputs, tmp_path):
    options = {"random_blocks": 256, "split_seed": 5}
    data = make(inputs, tmp_path / "a", **options)
    seen = {(o.split, o.other): o.seen_bp for o in data.manifest.report.split_overlaps if o.seeing}
    assert seen[("valid", "train")] == seen[("train", "valid")] == 32  # (192 - 128) / 2
    apart = make(inputs, tmp_path / "b", margin=32, **options)
    report = apart.manifest.report
    assert not any(overlap.seeing for overlap in report.split_overlaps)
    assert report.dropped_near_other_split == len(data) - len(apart) > 0
    assert apart.manifest.num_windows["test"] == data.manifest.num_windows["test"]
    assert apart.manifest.split.settings["margin_bp"] == 32


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"random_blocks": 100}, "random_blocks 100 is shorter than a target, 128 bp"),
        ({"random_blocks": 3000}, "share 0.1 cannot be met: .* blocks of 3,000 bp"),
        ({"random_blocks": 256, "margin": 5000}, "split .* within the margin of 5000 bp"),
        ({"random_blocks": 256, "valid_chroms": ("chrI",)}, "one way, not by --.-chroms and --ran"),
        ({"contigs": Path("a"), "windows": Path("b")}, "not by --contigs BED and --windows BED"),
        ({"valid_folds": ("a",)}, "add --contigs BED"),
        ({"contigs": Path("a"), "valid_folds": ("a",), "test_folds": ("a",)}, "fold a is in"),
        ({"windows": Path("a"), "stride": 64}, "stride 64 is for tiling"),
        ({"valid_share": 0.5, "test_share": 0.5}, "leave nothing to train on"),
        ({"margin": -1}, "margin -1 must be at least 0"),
    ],
)
def test_bad_options(inputs, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        make(inputs, tmp_path, **changes)


def lengths_of(assembly):
    lines = (METADATA / f"seqinfo/{assembly}.seqinfo.tsv").read_text().splitlines()
    rows = (line.split("\t") for line in lines)
    return {row[0]: int(row[1]) for row in rows if row[1].isdigit()}


@pytest.mark.long
@needs_metadata
@pytest.mark.parametrize("species, assembly, count", [("human", "hg38", 55_497),
                                                      ("mouse", "mm10", 49_369)])  # fmt: skip
def test_borzois_windows(species, assembly, count):
    path = METADATA / f"borzoi_sequences_{species}.bed.gz"
    lengths = lengths_of(assembly)
    targets = read_window_bed(path, 114_688, lengths, {})
    assert len(targets) == count
    assert {t.end - t.start for t in targets} == {114_688}
    assert sorted(Counter(t.split for t in targets)) == [f"fold{i}" for i in range(8)]
    with pytest.raises(UserError, match=r"overlaps line .* give them as --windows"):
        read_split_bed(path, lengths, {})


@needs_metadata
def test_basenjis_windows():
    path = HUMAN / "tfrecords_ds/sequences.bed"
    targets = read_window_bed(path, 65_536, lengths_of("hg38"), {})
    assert Counter(t.split for t in targets) == {"train": 45, "valid": 10, "test": 10}

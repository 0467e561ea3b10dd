import errno
import json
from pathlib import Path

import numpy as np
import pyBigWig
import pytest
import zarr
from small_inputs import LENGTHS, TABLE_HEADER, small_options, write_bigwig, write_inputs
from stops import stop_at_second_mark

from spacescale.dataset.codecs import codec_warning_ignored
from spacescale.dataset.reader import SpeciesData
from spacescale.errors import UserError
from spacescale.files import put_in_place
from spacescale.prepare.estimate import estimate
from spacescale.prepare.options import DatasetOptions
from spacescale.prepare.stages import (
    dataset_request,
    make_dataset,
    make_stage,
    read_tracks_table,
)
from spacescale.prepare.work_folder import WorkFolder, locked_exclusively
from spacescale.splits.options import SplitOptions

STAGES = "spacescale.prepare.stages"
SHARDS = "spacescale.prepare.shards"
WORK = "spacescale.prepare.work_folder"
MARK_WRITERS = (
    f"{WORK}.write_json",
    f"{WORK}.write_text",
    f"{STAGES}.write_text",
    f"{SHARDS}.write_json",
)
YEAST = Path(__file__).parents[3] / "shared/data/yeast_sacCer3"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    return folder


def make(inputs, out, **changes) -> SpeciesData:
    return SpeciesData.open(make_dataset(small_options(inputs, out, **changes)))


def test_every_row_equals_its_bigwig(inputs, tmp_path):
    data = make(inputs, tmp_path)
    assert len(data) == data.manifest.num_windows["train"] + 15 + 11
    with (
        pyBigWig.open(str(inputs / "plus.bw")) as plus,
        pyBigWig.open(str(inputs / "minus.bw")) as minus,
    ):
        for row, line in enumerate((data.path / "windows.bed").read_text().splitlines()):
            chrom, start, end, _ = line.split("\t")
            found = data.targets(row)
            assert found.shape == (8, 2)
            for column, file in enumerate((plus, minus)):
                bases = np.nan_to_num(file.values(chrom, int(start), int(end), numpy=True))
                bins = bases.reshape(8, 16)
                expected = bins.mean(1) if column == 0 else 2 * np.clip(bins.sum(1), 0, 20)
                np.testing.assert_allclose(found[:, column], expected, rtol=1e-3)


def test_windows_tile_in_genome_order_and_unknown_ones_are_dropped(inputs, tmp_path):
    data = make(inputs, tmp_path)
    windows = data.windows
    assert set(windows.end - windows.start) == {128}
    starts = windows.start[windows.chrom == "chrI"].tolist()
    # 1024..1152 holds 106 N of 128; 896..1024 only 24
    assert starts == [s for s in range(0, 3000 - 127, 128) if s != 1024]
    assert data.manifest.report.dropped_unknown_bases == 1
    assert list(dict.fromkeys(windows.chrom)) == list(LENGTHS)
    assert windows.split[windows.chrom == "chrM"].tolist() == ["train"] * 3


def test_track_table_reports_coverage_mean_and_unknown_columns(inputs, tmp_path):
    data = make(inputs, tmp_path)
    train = data.rows("train")
    stored = np.stack([data.targets(int(row)) for row in train])
    np.testing.assert_allclose(data.track_mean, stored.astype(float).mean((0, 1)), rtol=1e-6)
    plus, minus = data.tracks
    gaps = 4 * 50 / (len(data) * 128)  # bases 100 to 150 of each contig, the last 22 in window 2
    assert plus.covered == pytest.approx(1 - gaps)
    assert (plus.extra, plus.assay, plus.file) == ({"lab": "x"}, "rna", "plus.bw")
    assert (minus.clip, minus.scale, minus.sum_stat) == (20, 2, "sum")
    assert data.strand_pair.tolist() == [1, 0]


def test_two_runs_are_byte_identical(inputs, tmp_path):
    first = make(inputs, tmp_path / "a")
    second = make(inputs, tmp_path / "b", workers=2)
    names = [*first.manifest.files, "manifest.json"]
    assert all((first.path / n).read_bytes() == (second.path / n).read_bytes() for n in names)
    text = (first.path / "manifest.json").read_text()
    assert str(inputs) not in text and str(tmp_path) not in text


def test_folder_is_a_zarr_group_with_the_promised_layout(inputs, tmp_path):
    data = make(inputs, tmp_path)
    group = zarr.open_group(data.path, mode="r")
    with codec_warning_ignored():
        targets, genome = group["targets"], group["genome"]
    assert targets.dtype == np.float16 and np.isnan(targets.fill_value)
    assert targets.chunks == (1, 8, 2) and targets.shards == (16, 8, 2)
    assert genome.chunks == (262_144,) and genome.shape == (sum(LENGTHS.values()),)
    codecs = json.loads((data.path / "targets/zarr.json").read_text())["codecs"]
    inner = [codec["name"] for codec in codecs[0]["configuration"]["codecs"]]
    assert inner == ["numcodecs.pcodec", "crc32c"]
    assert sorted(p.name for p in data.path.iterdir()) == [
        "genome", "manifest.json", "sequence.bed", "targets", "tracks.tsv", "windows.bed",
        "zarr.json",
    ]  # fmt: skip


def test_tracks_on_some_contigs_only(inputs, tmp_path):
    lengths = {"chrI": 3_000, "chrII": 2_000, "chrUn": 500}
    folder = tmp_path / "partial"
    write_inputs(folder)
    write_bigwig(folder / "minus.bw", lengths, 1)
    data = make(folder, tmp_path / "out", test_chroms=())
    assert set(data.windows.chrom) == {"chrI", "chrII"}
    report = data.manifest.report
    assert report.contigs_without_tracks == {"chrIII": ["minus"], "chrM": ["minus"]}
    assert report.extra_contigs == {"chrUn": 1}
    assert [contig.name for contig in data.manifest.contigs] == ["chrI", "chrII"]


def test_roman_names_with_automatic_aliases(inputs, tmp_path):
    names = {"I": 3_000, "II": 2_000, "III": 1_500, "Mito": 400}
    folder = tmp_path / "roman"
    write_inputs(folder, track_lengths=names)
    with pytest.raises(UserError, match=r"I = chrI, II = chrII.*add --aliases auto"):
        make(folder, tmp_path / "out")
    data = make(folder, tmp_path / "out", aliases="auto", valid_chroms=("II",))
    plain = make(inputs, tmp_path / "plain")
    assert data.manifest.aliases["Mito"] == "chrM"
    assert np.array_equal(data.targets(0), plain.targets(0))
    assert np.array_equal(data.windows.chrom, plain.windows.chrom)


def test_automatic_aliases_reach_names_that_only_the_splits_use(inputs, tmp_path):
    bed = tmp_path / "splits.bed"
    bed.write_text("I\t0\t3000\ttrain\nII\t0\t2000\tvalid\n")
    no_chroms = {"valid_chroms": (), "test_chroms": ()}
    with pytest.raises(UserError, match=r"no contigs I, II; did you mean I = chrI.*aliases auto"):
        make(inputs, tmp_path / "a", contigs=bed, **no_chroms)
    data = make(inputs, tmp_path / "a", contigs=bed, aliases="auto", **no_chroms)
    assert data.manifest.aliases == {"I": "chrI", "II": "chrII"}
    unknown = {"valid_chroms": ("II",), "test_chroms": ("MT", "x")}
    message = r"^--valid-chroms, --test-chroms: .* no contigs II, MT, x; .*II = chrII, MT = chrM"
    with pytest.raises(UserError, match=message):
        make(inputs, tmp_path / "b", **unknown)
    data = make(inputs, tmp_path / "b", aliases="auto", **(unknown | {"test_chroms": ("MT",)}))
    assert set(data.windows.chrom[data.rows("test")]) == {"chrM"}


def test_a_name_that_a_track_uses_for_another_length_is_not_matched(tmp_path):
    folder = tmp_path / "other"
    write_inputs(folder, track_lengths={"chrI": 3_000, "chrII": 2_000, "MT": 399})
    with pytest.raises(UserError, match="no contig 'MT'; did you mean chrM"):
        make(folder, tmp_path / "out", aliases="auto", test_chroms=("MT",))


def test_without_splits_two_contigs_are_held_out(tmp_path):
    folder = tmp_path / "inputs"
    write_inputs(folder)
    data = make(folder, tmp_path / "a", valid_chroms=(), test_chroms=())
    # 10 % of 6,900 bp: chrM is 290 bp away, chrIII 810 bp
    split_of = dict(zip(data.windows.chrom, data.windows.split, strict=True))
    assert split_of == {"chrI": "train", "chrII": "train", "chrIII": "valid", "chrM": "test"}
    note = data.manifest.report.warnings[-1]
    assert "test is chrM (6 %) and valid chrIII (22 %)" in note
    assert "--valid-chroms and --test-chroms" in note and "--contigs BED" in note
    # A contig that one track lacks is not held out.
    write_bigwig(folder / "minus.bw", {n: bp for n, bp in LENGTHS.items() if n != "chrM"}, 1)
    data = make(folder, tmp_path / "b", valid_chroms=(), test_chroms=())
    assert "test is chrIII (23 %) and valid chrII (31 %)" in data.manifest.report.warnings[-1]
    # Neither is one that is too short for a target, and two are not enough.
    with pytest.raises(UserError, match="no splits given; held-out contigs must be chosen"):
        make(folder, tmp_path / "c", valid_chroms=(), test_chroms=(), seq_length=1920,
             target_length=120)  # fmt: skip


def test_bed_intervals_hold_the_targets_and_the_sequence_may_reach_beyond(inputs, tmp_path):
    bed = tmp_path / "splits.bed"
    bed.write_text("chrI\t0\t300\ttrain\nchrI\t2000\t2200\tvalid\nchrII\t1800\t2000\ttest\n")
    data = make(inputs, tmp_path / "out", valid_chroms=(), test_chroms=(), contigs=bed)
    rows = list(zip(data.windows.start, data.windows.end, data.windows.split, strict=True))
    assert rows == [(0, 128, "train"), (128, 256, "train"), (2000, 2128, "valid"),
                    (1800, 1928, "test")]  # fmt: skip


def test_stride(inputs, tmp_path):
    data = make(inputs, tmp_path, stride=64)
    assert data.windows.start[:3].tolist() == [0, 64, 128]
    assert data.manifest.stride == 64


def test_saturated_bins_are_counted_and_reported(tmp_path):
    table = TABLE_HEADER + "0\tbig\tplus.bw\t\t100000\tmean\t\tRNA:big\tx\n"
    write_inputs(tmp_path / "in", table=table)
    data = make(tmp_path / "in", tmp_path / "out")
    stored = np.stack([data.targets(row) for row in range(len(data))])
    assert data.tracks[0].saturated == np.count_nonzero(stored == np.float16(65504))
    assert data.manifest.report.saturated_bins == {"big": data.tracks[0].saturated}
    assert "beyond float16" in data.manifest.report.warnings[0]


def test_current_clips_each_track_at_its_extreme_quantile(inputs, tmp_path):
    plain = make(inputs, tmp_path / "a")
    current = make(inputs, tmp_path / "b", transform="current")
    values = np.stack([plain.targets(row)[:, 0] for row in range(len(plain))])
    limit = np.float16(np.quantile(values.astype(np.float32), 0.9999999))
    found = np.stack([current.targets(row)[:, 0] for row in range(len(current))])
    assert np.array_equal(found, np.minimum(values, limit))
    assert current.manifest.transform.model_dump() == {"name": "current", "version": 2}


def test_overwrite_replaces_datasets_only(inputs, tmp_path):
    make(inputs, tmp_path)
    with pytest.raises(UserError, match="exists; add --overwrite"):
        make(inputs, tmp_path)
    assert make(inputs, tmp_path, stride=64, overwrite=True).manifest.stride == 64
    assert [p.name for p in tmp_path.iterdir()] == ["tiny"]
    (tmp_path / "notes").mkdir()
    with pytest.raises(UserError, match="is no species dataset"):
        make(inputs, tmp_path, species="notes", overwrite=True)


def contents(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def raising(error):
    def stop(*_, **__):
        raise error

    return stop


@pytest.mark.parametrize("moment", ["after a mark", "before the next"])
def test_a_run_stopped_after_every_step_ends_like_one_that_was_not(
    inputs, tmp_path, monkeypatch, moment
):
    """Each run gets one marker further than the one before: request, plan, tracks, shards."""
    old = contents(make(inputs, tmp_path / "out").path)
    whole = contents(make(inputs, tmp_path / "whole", stride=64).path)
    stops = 0
    while True:
        with monkeypatch.context() as patch:
            stop_at_second_mark(patch, MARK_WRITERS, moment, KeyboardInterrupt)
            try:
                data = make(inputs, tmp_path / "out", stride=64, overwrite=True)
                break
            except KeyboardInterrupt:
                stops += 1
        assert contents(tmp_path / "out/tiny") == old
    marks = 1 + 1 + 2 + 5  # request, plan, tracks, shards
    assert stops == (marks if moment == "after a mark" else marks - 1)
    assert contents(data.path) == whole
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tiny"]


@pytest.mark.parametrize(
    "step",
    [f"{STAGES}.read_genome", f"{WORK}.create_group", f"{SHARDS}.write_manifest",
     f"{SHARDS}.put_in_place"],
)  # fmt: skip
@pytest.mark.parametrize("fault", [KeyboardInterrupt, OSError(errno.EIO, "broken")])
def test_a_run_stopped_between_markers_goes_on(inputs, tmp_path, monkeypatch, step, fault):
    whole = contents(make(inputs, tmp_path / "whole").path)
    with monkeypatch.context() as patch:
        patch.setattr(step, raising(fault))
        with pytest.raises((KeyboardInterrupt, OSError)):
            make(inputs, tmp_path / "out")
    data = make(inputs, tmp_path / "out", overwrite=True)
    assert contents(data.path) == whole
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tiny"]


def test_a_run_stopped_after_its_end_leaves_a_whole_dataset(inputs, tmp_path, monkeypatch):
    def stop_afterwards(folder, target):
        put_in_place(folder, target)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"{SHARDS}.put_in_place", stop_afterwards)
        with pytest.raises(KeyboardInterrupt):
            make(inputs, tmp_path)
    SpeciesData.open(tmp_path / "tiny").verify()
    with pytest.raises(UserError, match="exists; add --overwrite"):
        make(inputs, tmp_path)
    assert make(inputs, tmp_path, stride=64, overwrite=True).manifest.stride == 64
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_a_run_stopped_between_old_and_new_goes_on(inputs, tmp_path, monkeypatch):
    """The moment when the old dataset has been moved away and the new one has not come."""
    make(inputs, tmp_path)

    def stop_between(_, target):
        target.rename(target.with_name(".tiny.old"))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"{SHARDS}.put_in_place", stop_between)
        with pytest.raises(KeyboardInterrupt):
            make(inputs, tmp_path, stride=64, overwrite=True)
    with pytest.raises(UserError, match="exists; add --overwrite"):  # it was brought back
        make(inputs, tmp_path, stride=64)
    assert make(inputs, tmp_path, stride=64, overwrite=True).manifest.stride == 64
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_what_a_stopped_run_did_is_not_done_again(inputs, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(f"{SHARDS}.write_targets_shard", raising(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            make(inputs, tmp_path)
    monkeypatch.setattr(f"{STAGES}.read_track", raising(AssertionError("read again")))
    monkeypatch.setattr(f"{STAGES}.make_plan", raising(AssertionError("planned again")))
    told = []
    make_dataset(small_options(inputs, tmp_path), notify=told.append)
    assert told == ["continuing: 2 of 2 tracks are read"]


def test_a_stopped_run_is_not_continued_with_other_inputs(tmp_path, monkeypatch):
    write_inputs(tmp_path / "in")
    with monkeypatch.context() as patch:
        patch.setattr(f"{SHARDS}.write_targets_shard", raising(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "in", tmp_path / "out")
    with pytest.raises(UserError, match="begun with stride: None, now it is 64; give what"):
        make(tmp_path / "in", tmp_path / "out", stride=64)
    write_bigwig(tmp_path / "in/plus.bw", LENGTHS, 7)
    with pytest.raises(UserError, match=r"begun with file .*plus.bw: \d+ bytes, changed at"):
        make(tmp_path / "in", tmp_path / "out")
    again = make(tmp_path / "in", tmp_path / "out", overwrite=True)
    assert contents(again.path) == contents(make(tmp_path / "in", tmp_path / "new").path)


def test_two_runs_cannot_write_one_dataset(inputs, tmp_path):
    options = small_options(inputs, tmp_path)
    request = dataset_request(options, read_tracks_table(options))
    with (
        locked_exclusively(WorkFolder.of(options.target), request),
        pytest.raises(UserError, match="another run is writing this dataset"),
    ):
        make_dataset(options)
    assert SpeciesData.open(make_dataset(options)).tracks


def test_bad_input_found_late_leaves_nothing(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(f"{STAGES}.read_track", raising(UserError("infinite coverage")))
    with pytest.raises(UserError, match="infinite coverage"):
        make(inputs, tmp_path / "new" / "deep")
    assert not (tmp_path / "new").exists()


def test_a_full_disk_is_a_clear_error_and_the_run_can_go_on(inputs, tmp_path, monkeypatch):
    whole = contents(make(inputs, tmp_path / "whole").path)
    with monkeypatch.context() as patch:
        full = OSError(errno.ENOSPC, "No space left on device")
        patch.setattr(f"{SHARDS}.write_targets_shard", raising(full))
        with pytest.raises(UserError, match="No space left on device; make room and run the same"):
            make(inputs, tmp_path / "out")
    assert contents(make(inputs, tmp_path / "out").path) == whole


def test_stages_in_parts_end_like_one_run(inputs, tmp_path):
    whole = contents(make(inputs, tmp_path / "whole").path)
    options = small_options(inputs, tmp_path / "out")
    with pytest.raises(UserError, match="not prepared: run --stage prepare first"):
        make_stage(options, "tracks")
    make_stage(options, "prepare")
    make_stage(options, "tracks", 2, 2)
    with pytest.raises(UserError, match="1 of 2 tracks are not read; run --stage tracks"):
        make_stage(options, "shards")
    make_stage(options, "tracks", 1, 2)
    for part in (3, 1):
        make_stage(options, "shards", part, 3)
    with pytest.raises(UserError, match="of 4 shards are not written; run --stage shards"):
        make_stage(options, "finish")
    make_stage(options, "shards", 2, 3)
    assert contents(make_stage(options, "finish")) == whole


@pytest.mark.parametrize("codec", ["pcodec", "zstd", "none"])
def test_codecs_hold_the_same_targets(inputs, tmp_path, codec):
    plain = make(inputs, tmp_path / "a")
    data = make(inputs, tmp_path / "b", codec=codec, windows_per_shard=32)
    assert (data.manifest.storage.codec, data.manifest.storage.windows_per_shard) == (codec, 32)
    with codec_warning_ignored():
        by_zarr = zarr.open_array(data.path / "targets", mode="r")
    assert by_zarr.shards == (32, 8, 2)
    assert all(np.array_equal(data.targets(r), np.asarray(by_zarr[r])) for r in range(len(data)))
    assert all(np.array_equal(data.targets(r), plain.targets(r)) for r in range(len(data)))
    shard = data.path / "targets/c/0/0/0"
    damaged = bytearray(shard.read_bytes())
    damaged[5] ^= 1
    shard.write_bytes(damaged)
    with pytest.raises(UserError, match=r"row 0 .* is damaged"):
        data.targets(0)


def test_some_tracks_only(inputs, tmp_path):
    plain = make(inputs, tmp_path / "a")
    with pytest.raises(UserError, match="plus is selected without its opposite strand minus"):
        make(inputs, tmp_path / "b", tracks=("plus",))
    with pytest.raises(UserError, match=r"targets.txt has no track 'x'.*it has plus, minus"):
        make(inputs, tmp_path / "b", tracks=("x",))
    data = make(inputs, tmp_path / "b", tracks=("1", "plus"))
    assert [track.identifier for track in data.tracks] == ["plus", "minus"]
    table = TABLE_HEADER + "".join(
        f"{index}\tt{index}\t{name}.bw\t\t1\tmean\t{pair}\tRNA:x\tx\n"
        for index, name, pair in ((4, "plus", 4), (7, "minus", 9), (9, "plus", 7))
    )
    write_inputs(tmp_path / "in", table=table)
    data = make(tmp_path / "in", tmp_path / "c", tracks=("9", "t7"))
    assert [(track.index, track.strand_pair) for track in data.tracks] == [(7, 1), (9, 0)]
    assert np.array_equal(data.targets(3)[:, 1], plain.targets(3)[:, 0])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"species": "../x"}, "species '../x'"),
        ({"bin_size": 0}, "bin_size 0 must be at least 1"),
        ({"seq_length": 100}, "seq_length 100 must exceed"),
        ({"seq_length": 193}, "by an even number"),
        ({"transform": "log"}, "no transform 'log'; there are"),
        ({"contigs": Path("a.bed")}, "one way"),
    ],
)
def test_options_are_checked(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        small_options(tmp_path, tmp_path, **changes)


@pytest.mark.skipif(not YEAST.is_dir(), reason="no yeast data beside the repository")
def test_real_yeast(tmp_path):
    tracks = YEAST / "tracks"
    table = tmp_path / "targets.txt"
    table.write_text(
        "index\tidentifier\tfile\tstrand_pair\tdescription\n"
        f"0\tScc1\t{tracks / 'Scc1.bw'}\t0\tCHIP:Scc1\n"
        f"1\tplus\t{tracks / 'RNA.fwd.bw'}\t2\tRNA:plus\n"
        f"2\tminus\t{tracks / 'RNA.rev.bw'}\t1\tRNA:minus\n"
    )
    options = DatasetOptions(
        species="yeast",
        fasta=YEAST / "genome/sacCer3.fa.gz",
        targets=table,
        out=tmp_path / "out",
        aliases="auto",
        splits=SplitOptions(valid_chroms=("chrII",), test_chroms=("chrXVI",)),
    )
    data = SpeciesData.open(make_dataset(options))
    assert data.manifest.num_windows == {"train": 106, "valid": 56, "test": 66}
    assert data.manifest.aliases == {"II": "chrII", "IV": "chrIV", "XVI": "chrXVI"}
    row = int(data.rows("test")[7])
    start = int(data.windows.start[row])
    with pyBigWig.open(str(tracks / "RNA.rev.bw")) as file:
        bases = file.values("XVI", start, start + 128 * 112, numpy=True).reshape(112, 128)
    np.testing.assert_allclose(data.targets(row)[:, 2], bases.mean(1), rtol=1e-3)
    from_two_bit = DatasetOptions(**(vars(options) | {"fasta": YEAST / "genome/sacCer3.2bit",
                                                    "species": "yeast2bit"}))  # fmt: skip
    same = SpeciesData.open(make_dataset(from_two_bit))
    assert np.array_equal(same.sequence(row), data.sequence(row))


def test_a_plan_tells_of_a_full_temporary_folder(inputs, tmp_path, monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr("spacescale.prepare.estimate.read_genome", raising(full))
    with pytest.raises(UserError, match=r"cannot write into .*: No space left on device"):
        estimate(small_options(inputs, tmp_path / "out"))

"""Coverage to stored targets with masks and missing values, against plain statements of them."""

from pathlib import Path

import numpy as np
import pyBigWig
import pytest
from small_inputs import (
    LENGTHS,
    TABLE,
    TABLE_HEADER,
    small_options,
    write_bigwig,
    write_fasta,
    write_inputs,
)

from spacescale.dataset.reader import SpeciesData
from spacescale.errors import UserError
from spacescale.evals.profile_baselines import mean_profile
from spacescale.prepare.stages import make_dataset

BIN, BINS, SPAN, INPUT = 16, 8, 128, 192


def row_of(index: int, file: str, sum_stat: str = "mean", clip: str = "") -> str:
    return f"{index}\tt{index}\t{file}\t{clip}\t1\t{sum_stat}\t\tRNA:x\tx\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """full.bw: a value on every base. holes.bw: nothing on 100-150 of each contig.
    part.bedGraph: chrI 300-600 only. peaks.bed: two peaks on chrI.
    """
    folder = tmp_path_factory.mktemp("inputs")
    write_fasta(folder / "genome.fa")
    write_bigwig(folder / "holes.bw", LENGTHS, 1)
    rng = np.random.default_rng(3)
    with pyBigWig.open(str(folder / "full.bw"), "w") as file:
        file.addHeader(list(LENGTHS.items()))
        for name, length in LENGTHS.items():
            file.addEntries(name, 0, values=rng.gamma(1, 2, length), span=1, step=1)
    (folder / "part.bedGraph").write_text("chrI\t300\t410\t2\nchrI\t410\t600\t4\n")
    (folder / "peaks.bed").write_text("chrI\t130\t150\nchrI\t140\t200\n")
    return folder


def make(folder: Path, out: Path, table: str, **changes) -> SpeciesData:
    name = f"targets{abs(hash(table))}.txt"
    (folder / name).write_text(TABLE_HEADER + table)
    settings = {"targets": folder / name, "valid_chroms": ("chrII",), "test_chroms": ("chrIII",)}
    return SpeciesData.open(make_dataset(small_options(folder, out, **(settings | changes))))


def bases(folder: Path, name: str, chrom: str, start: int, end: int) -> np.ndarray:
    with pyBigWig.open(str(folder / name)) as file:
        return file.values(chrom, max(start, 0), min(end, LENGTHS[chrom]), numpy=True)


def windows_of(data: SpeciesData):
    windows = data.windows
    for row in range(len(data)):
        yield row, str(windows.chrom[row]), int(windows.start[row]), int(windows.end[row])


def test_missing_bins_are_nan_and_partly_covered_ones_are_not(folder, tmp_path):
    table = row_of(0, "holes.bw") + row_of(1, "holes.bw", "sum")
    zero = make(folder, tmp_path / "zero", table)
    kept = make(folder, tmp_path / "nan", table, missing="nan")
    assert (zero.manifest.missing, kept.manifest.missing) == ("zero", "nan")
    holes = 0
    for row, chrom, start, end in windows_of(kept):
        coverage = bases(folder, "holes.bw", chrom, start, end).reshape(BINS, BIN)
        unmeasured = np.isnan(coverage).all(axis=1)
        filled = np.nan_to_num(coverage)
        expected = np.stack([filled.mean(axis=1), filled.sum(axis=1)], axis=1)
        np.testing.assert_allclose(zero.targets(row), expected, rtol=1e-3)
        expected[unmeasured] = np.nan
        np.testing.assert_allclose(kept.targets(row), expected, rtol=1e-3)
        holes += int(unmeasured.sum())
    assert holes == 2 * len(LENGTHS)  # bins 112-128 and 128-144 of each contig
    train = np.stack([kept.targets(int(row)) for row in kept.rows("train")]).astype(float)
    np.testing.assert_allclose(kept.track_mean, np.nanmean(train, axis=(0, 1)), rtol=1e-6)
    assert kept.tracks[0].covered == pytest.approx(1 - 4 * 50 / (len(kept) * SPAN))


def test_contigs_and_windows_that_no_track_measured_are_left_out(folder, tmp_path):
    splits = folder / "splits.bed"
    splits.write_text("chrI\t0\t512\ttrain\nchrI\t512\t1000\tvalid\nchrII\t0\t512\ttest\n")
    no_chroms = {"contigs": splits, "valid_chroms": (), "test_chroms": ()}
    table = row_of(0, "part.bedGraph", "sum")
    with pytest.raises(UserError, match="split test has no window: no contig of chrII is in any"):
        make(folder, tmp_path / "a", table, missing="nan", **no_chroms)
    splits.write_text("chrI\t0\t512\ttrain\nchrI\t512\t1000\tvalid\n")
    data = make(folder, tmp_path / "b", table, missing="nan", **no_chroms)
    # Of the tiles from 0 to 512 only 256-384 and 384-512 have a value, of the others 512-640.
    assert data.windows.start.tolist() == [256, 384, 512]
    assert data.manifest.report.dropped_unmeasured == 4
    assert data.manifest.num_windows == {"train": 2, "valid": 1}
    assert data.tracks[0].covered == pytest.approx(300 / (3 * SPAN))
    nan = np.nan
    # Bin 288-304 has 4 bases of value 2, bin 400-416 has 10 of value 2 and 6 of value 4.
    assert np.array_equal(data.targets(0)[:, 0], [nan, nan, 8, 32, 32, 32, 32, 32], equal_nan=True)
    assert data.targets(1)[1, 0] == 10 * 2 + 6 * 4
    # The third track of two that lack a contig does not keep the others from it.
    both = make(folder, tmp_path / "c", table + row_of(1, "full.bw"), missing="nan", **no_chroms)
    assert np.isnan(both.targets(0)).tolist() == [[True, False]] * BINS
    assert both.manifest.report.dropped_unmeasured == 0
    splits.write_text("chrI\t0\t512\ttrain\nchrI\t768\t1000\tvalid\n")
    with pytest.raises(UserError, match="split valid has no window left"):
        make(folder, tmp_path / "d", table, missing="nan", **no_chroms)


def test_peaks_are_targets_like_others_and_never_missing(folder, tmp_path):
    data = make(folder, tmp_path, row_of(0, "peaks.bed", "sum"), missing="nan")
    assert set(data.windows.chrom) == set(LENGTHS)
    stored = np.stack([data.targets(row) for row in range(len(data))])
    assert stored.sum() == 70 and not np.isnan(stored).any()
    assert data.targets(1)[:5, 0].tolist() == [14, 16, 16, 16, 8]


@pytest.mark.parametrize(
    "transform, version, percentile",
    [("basenji2020", 1, 10), ("borzoi", 2, 50), ("current", 2, 50)],
)
@pytest.mark.parametrize("file", ["full.bw", "holes.bw"])
def test_blacklist_by_the_percentile_of_the_whole_input_window(
    folder, tmp_path, transform, version, percentile, file
):
    blacklist = folder / "blacklist.bed"
    blacklist.write_text("chrI\t60\t70\nchrI\t90\t95\nchrII\t500\t700\nchrM\t390\t400\n")
    data = make(folder, tmp_path / "a", row_of(0, file), transform=transform, blacklist=blacklist)
    plain = make(folder, tmp_path / "b", row_of(0, file), transform=transform)
    masked = {"chrI": [(40, 115)], "chrII": [(480, 720)], "chrM": [(370, 420)]}  # 20 bp wider
    changed = 0
    for row, chrom, start, end in windows_of(data):
        target = bases(folder, file, chrom, start, end)
        margin = (INPUT - SPAN) // 2
        window = bases(folder, file, chrom, start - margin, end + margin)
        baseline = 0 if np.isnan(window).any() else np.percentile(window, percentile)
        for first, last in masked.get(chrom, []):
            black = slice(max(first - start, 0), max(last - start, 0))
            if transform == "basenji2020":
                target[black] = baseline
            else:
                target[black] = np.clip(target[black], -baseline, baseline)
        expected = np.nan_to_num(target).reshape(BINS, BIN).mean(axis=1)
        np.testing.assert_allclose(data.targets(row)[:, 0], expected, rtol=2e-3)
        changed += not np.array_equal(data.targets(row), plain.targets(row))
    assert changed == 5  # one of chrI, three of chrII, the last of chrM
    manifest = data.manifest
    assert manifest.sources.masks["blacklist"].name == "blacklist.bed"
    assert manifest.transform.model_dump() == {"name": transform, "version": version}


def test_windows_in_gaps_are_left_out(folder, tmp_path):
    gaps = folder / "gaps.bed"
    gaps.write_text("chrI\t255\t256\tgap\nchrI\t640\t900\n")
    plain = make(folder, tmp_path / "a", row_of(0, "full.bw"))
    data = make(folder, tmp_path / "b", row_of(0, "full.bw"), gaps=gaps)
    lost = set(plain.windows.start[plain.windows.chrom == "chrI"].tolist())
    lost -= set(data.windows.start[data.windows.chrom == "chrI"].tolist())
    assert lost == {128, 640, 768, 896}
    assert data.manifest.report.dropped_gaps == 4


def test_unmappable_bins(folder, tmp_path):
    mask = folder / "umap.bed"
    # 0-128: 5 of 8 bins, dropped. 128-256: 4 of 8, kept. 256: 1 base of a bin, too few; 272: 2.
    mask.write_text("chrI\t0\t80\nchrI\t128\t192\nchrI\t256\t257\nchrI\t272\t274\nchrUn\t0\t9\n")
    table = row_of(0, "full.bw")
    plain = make(folder, tmp_path / "a", table)
    clipped = make(folder, tmp_path / "b", table, unmappable=mask)
    hidden = make(folder, tmp_path / "c", table, unmappable=mask, missing="nan")
    assert clipped.windows.start[:2].tolist() == hidden.windows.start[:2].tolist() == [128, 256]
    assert clipped.manifest.report.dropped_unmappable == 1
    for row, bins in ((0, slice(0, 4)), (1, slice(1, 2))):
        before = plain.targets(row + 1)[:, 0]
        expected = before.copy()
        limit = np.percentile(before.astype(np.float32), 25)
        expected[bins] = np.minimum(before[bins], np.float16(limit))
        assert np.array_equal(clipped.targets(row)[:, 0], expected)
        assert not np.array_equal(expected, before)
        expected = before.copy()
        expected[bins] = np.nan
        assert np.array_equal(hidden.targets(row)[:, 0], expected, equal_nan=True)
    assert hidden.tracks[0].covered == pytest.approx(1 - 5 * BIN / (len(hidden) * SPAN))


def test_masks_are_matched_to_the_genome(folder, tmp_path):
    mask = folder / "mask.bed"
    mask.write_text("I\t128\t200\n")
    table = row_of(0, "full.bw")
    with pytest.raises(
        UserError, match=r"mask.bed shares no contig name .*I = chrI: add --aliases"
    ):
        make(folder, tmp_path, table, gaps=mask)
    data = make(folder, tmp_path, table, gaps=mask, aliases="auto")
    assert data.manifest.report.dropped_gaps == 1
    assert data.manifest.aliases == {"I": "chrI"}
    mask.write_text("chrI\t128\t200\nchrII\t3001\t3002\n")
    with pytest.raises(UserError, match=r"mask.bed:2: start 3001 lies far beyond chrII, .* 2000"):
        make(folder, tmp_path, table, gaps=mask, species="other")
    mask.write_text("chrI\t128\n")
    with pytest.raises(UserError, match=r"mask.bed:1: expected chrom, start and end"):
        make(folder, tmp_path, table, blacklist=mask, species="other")
    with pytest.raises(UserError, match=r"no such|cannot read"):
        make(folder, tmp_path, table, blacklist=folder / "none.bed", species="other")


def test_what_is_past_the_end_of_a_contig_is_cut_and_said_once(folder, tmp_path):
    """A binned track ends in a whole bin, in every format; so do masks."""
    starts = {name: list(range(0, length, 150)) for name, length in LENGTHS.items()}
    rows = [(name, s, s + 150, float(s % 7 + 1)) for name in LENGTHS for s in starts[name]]
    with pyBigWig.open(str(folder / "past.bw"), "w") as file:
        file.addHeader(list(LENGTHS.items()))
        for name in LENGTHS:
            values = [value for chrom, *_, value in rows if chrom == name]
            file.addEntries(name, 0, values=values, span=150, step=150)
    text = "".join(f"{c}\t{s}\t{e}\t{v}\n" for c, s, e, v in rows)
    (folder / "past.bedGraph").write_text(text)
    peaks = "".join(f"{c}\t{s}\t{e}\tp\t0\t.\t{v}\t1\t1\t4\n" for c, s, e, v in rows)
    (folder / "past.narrowPeak").write_text(peaks)
    mask = folder / "past.bed"
    mask.write_text("chrIII\t1490\t1600\nchrI\t100\t120\n")
    table = row_of(0, "past.bw") + row_of(1, "past.bedGraph") + row_of(2, "past.narrowPeak")
    data = make(folder, tmp_path, table, blacklist=mask, unmappable=mask, gaps=mask, workers=2)
    for row, chrom, start, end in windows_of(data):
        values = np.full(LENGTHS[chrom] + 150, np.nan)
        for name, first, last, value in rows:
            values[first:last] = value if name == chrom else values[first:last]
        assert np.isfinite(values[: LENGTHS[chrom]]).all()
        if not (chrom == "chrI" and start < 140):
            expected = values[start:end].reshape(BINS, BIN).mean(axis=1)
            np.testing.assert_allclose(data.targets(row)[:, 0], expected, rtol=1e-3)
        np.testing.assert_array_equal(data.targets(row)[:, 0], data.targets(row)[:, 1])
    # 150 divides 3,000 and 1,500.
    said = "has 2 intervals past the end of chrII, chrM, the furthest by 100 bp on chrII: cut there"
    warnings = [text for text in data.manifest.report.warnings if "past the end" in text]
    assert warnings == [
        f"track t0: past.bw {said}",
        f"track t1: past.bedGraph {said}",
        f"track t2: past.narrowPeak {said}",
        *[
            f"--{name} past.bed has 1 interval past the end of chrIII, the furthest by 100 bp on "
            "chrIII: cut there"
            for name in ("blacklist", "unmappable", "gaps")
        ],
    ]


def test_tracks_and_masks_that_hold_nothing(folder, tmp_path):
    """One answer, whatever the format: the track is there, holds nothing, and that is said."""
    with pyBigWig.open(str(folder / "none.bw"), "w") as file:
        file.addHeader(list(LENGTHS.items()))
    (folder / "none.bedGraph").write_text("track type=bedGraph\n")
    (folder / "none.narrowPeak").write_text("")
    names = ["none.bw", "none.bedGraph", "none.narrowPeak"]
    table = "".join(row_of(index, name) for index, name in enumerate(["full.bw", *names]))
    empty = folder / "none.narrowPeak"
    data = make(folder, tmp_path / "a", table, gaps=empty)
    assert not np.stack([data.targets(row) for row in range(len(data))])[:, :, 1:].any()
    no_value = "has no value on chrI, chrII, chrIII, chrM"
    zero = "is 0 in every window its mean is taken over"
    assert data.manifest.report.warnings == [
        f"track t1 {no_value}", f"track t1 {zero}",
        f"track t2 {no_value}", f"track t2 {zero}",
        f"track t3 {zero}",
        "--gaps none.narrowPeak lists no interval: it masks nothing",
    ]  # fmt: skip
    data = make(folder, tmp_path / "b", table, missing="nan")
    stored = np.stack([data.targets(row) for row in range(len(data))])
    assert np.isnan(stored[:, :, 1:3]).all() and not stored[:, :, 3].any()
    for name in names[:2]:
        with pytest.raises(UserError, match="has no window left: no track has a value in any"):
            make(folder, tmp_path / "c", row_of(0, name), missing="nan")


def test_a_mask_of_another_mitochondrion_is_told_once_and_stops_no_empty_track(folder, tmp_path):
    mask = folder / "longer.bed"
    mask.write_text("chrI\t900\t1000\nchrM\t2000\t3000\nchrII\t1990\t2010\n")
    (folder / "none.bed").write_text("")
    for number, file in enumerate(("full.bw", "none.bed")):
        data = make(folder, tmp_path / str(number), row_of(0, file), gaps=mask)
        assert "chrM" not in set(data.windows.chrom)
        (of_mito,) = [text for text in data.manifest.report.warnings if "chrM" in text]
        assert of_mito.startswith("chrM is left out, of another length: ")
        (cut,) = [text for text in data.manifest.report.warnings if "past the end" in text]
        assert cut.startswith("--gaps longer.bed has 1 interval past the end of chrII, ")


def test_a_mask_does_not_rename_the_contig_of_a_track(folder, tmp_path):
    """MT of the track has another length than chrM, so it is another assembly's."""
    write_bigwig(
        folder / "other.bw", {"chrI": 3_000, "chrII": 2_000, "chrIII": 1_500, "MT": 399}, 1
    )
    (folder / "mt.bed").write_text("MT\t20\t30\nchrI\t20\t30\n")
    table = row_of(0, "full.bw") + row_of(1, "other.bw")
    data = make(folder, tmp_path, table, missing="nan", aliases="auto", blacklist=folder / "mt.bed")
    on_mito = [data.targets(row) for row, chrom, _, _ in windows_of(data) if chrom == "chrM"]
    assert len(on_mito) == 3
    assert np.isnan([targets[:, 1] for targets in on_mito]).all()
    assert data.manifest.aliases == {}


def test_masks_that_change_are_read_again(folder, tmp_path):
    mask = folder / "changing.bed"
    mask.write_text("chrI\t1200\t1400\n")
    first = make(folder, tmp_path / "a", row_of(0, "full.bw"), blacklist=mask)
    mask.write_text("chrI\t2200\t2400\n")
    second = make(folder, tmp_path / "b", row_of(0, "full.bw"), blacklist=mask)
    plain = make(folder, tmp_path / "c", row_of(0, "full.bw"))
    changed = [
        [start for row, _, start, _ in windows_of(data)
         if not np.array_equal(data.targets(row), plain.targets(row))]
        for data in (first, second)
    ]  # fmt: skip
    assert changed == [[1152, 1280, 1408], [2176, 2304]]


def test_the_mean_profile_leaves_out_what_was_not_measured(folder, tmp_path):
    splits = folder / "profile.bed"
    splits.write_text("chrI\t0\t640\ttrain\nchrI\t640\t1000\tvalid\n")
    table = row_of(0, "part.bedGraph") + row_of(1, "full.bw")
    data = make(
        folder, tmp_path, table, missing="nan", contigs=splits, valid_chroms=(), test_chroms=()
    )
    train = np.stack([data.targets(int(row)) for row in data.rows("train")]).astype(float)
    profile = mean_profile(data).numpy()
    np.testing.assert_allclose(profile, np.nanmean(train, axis=0), rtol=1e-6)
    # Bins that no training window measured get the mean of the track.
    splits.write_text("chrI\t256\t384\ttrain\nchrI\t640\t1000\tvalid\n")
    data = make(
        folder, tmp_path, table, missing="nan", contigs=splits, valid_chroms=(), test_chroms=(),
        species="few",
    )  # fmt: skip
    assert np.isnan(data.targets(0)[:2, 0]).all()
    np.testing.assert_allclose(mean_profile(data)[:2, 0], data.track_mean[0])


def test_rows_of_a_mask_that_no_contig_has_are_named_and_served_by_aliases(tmp_path):
    folder = tmp_path / "in"
    write_inputs(folder)
    mask = folder / "mask.bed"
    mask.write_text("chrI\t500\t600\nII\t500\t600\nII\t700\t800\n")
    (folder / "names.txt").write_text("chrI\tI\tx\nchrII\tII\tx\nchrII\tNC_2\tx\n")

    rows = TABLE.removeprefix(TABLE_HEADER)

    def gaps(**options):
        report = make(folder, tmp_path, rows, overwrite=True, gaps=mask, **options).manifest.report
        return report.dropped_gaps, [text for text in report.warnings if "mask.bed" in text]

    dropped, (warning,) = gaps()
    assert warning.startswith("--gaps mask.bed: 2 of its 3 stretches mask nothing: ")
    assert "'II'; did you mean chrII?; --aliases auto" in warning
    for aliases in ("auto", folder / "names.txt"):
        more, warnings = gaps(aliases=aliases)
        assert more > dropped and not warnings

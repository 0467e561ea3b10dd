"""Tracks as users have them: of another length, below 0, or named by a URL."""

import warnings

import numpy as np
import pyBigWig
import pytest
from small_inputs import LENGTHS, TABLE, small_options, write_inputs

from spacescale.dataset.reader import SpeciesData
from spacescale.errors import UserError
from spacescale.prepare import track_reader
from spacescale.prepare.stages import make_dataset


def make(inputs, out, **changes) -> SpeciesData:
    return SpeciesData.open(make_dataset(small_options(inputs, out, **changes)))


def test_a_contig_of_another_length_is_left_out_unless_a_split_names_it(tmp_path):
    other = LENGTHS | {"chrM": LENGTHS["chrM"] + 2}
    write_inputs(tmp_path / "in", track_lengths=other)
    data = SpeciesData.open(make_dataset(small_options(tmp_path / "in", tmp_path / "out")))
    assert "chrM" not in {window.chrom for window in data.windows.intervals()}
    (warning,) = [w for w in data.manifest.report.warnings if "chrM" in w]
    assert warning.startswith("chrM is left out, of another length: ")
    assert warning.endswith(", and likewise 1 more files")
    for named in ({"train_chroms": ("chrI", "chrM")}, {"test_chroms": ("chrIII", "chrM")}):
        with pytest.raises(UserError, match=r"contig chrM has 402 bp, .* A split asks for chrM"):
            make_dataset(small_options(tmp_path / "in", tmp_path / "no", **named))


def test_another_assembly_is_refused_although_no_split_names_the_contigs(tmp_path):
    write_inputs(tmp_path / "in", track_lengths=LENGTHS | {"chrI": LENGTHS["chrI"] + 1})
    with pytest.raises(UserError, match=r"contig chrI has 3001 bp, .*assembly mismatch"):
        make_dataset(small_options(tmp_path / "in", tmp_path / "out"))


@pytest.mark.parametrize("windows", [1, 3])
def test_how_many_windows_are_read_together_changes_nothing(tmp_path, monkeypatch, windows):
    write_inputs(tmp_path / "in")
    data = make(tmp_path / "in", tmp_path / "out")
    span = data.target_length * data.bin_size
    monkeypatch.setattr(track_reader, "_BASES_AT_A_TIME", windows * span)
    again = make(tmp_path / "in", tmp_path / "again")
    assert len(data) > 2 * windows and again.manifest.files == data.manifest.files


def test_a_track_written_below_0_is_turned_by_its_scale(tmp_path):
    write_inputs(tmp_path / "in")
    with pyBigWig.open(str(tmp_path / "in" / "minus.bw")) as file:
        values = {
            name: np.array(file.values(name, 150, length)) for name, length in LENGTHS.items()
        }
    as_it_was = SpeciesData.open(make_dataset(small_options(tmp_path / "in", tmp_path / "out")))
    with pyBigWig.open(str(tmp_path / "in" / "minus.bw"), "w") as file:
        file.addHeader(list(LENGTHS.items()))
        for name in LENGTHS:
            file.addEntries(name, 150, values=-values[name], span=1, step=1)
    with pytest.raises(UserError, match="minus is below 0 and its strand pair plus above 0"):
        make_dataset(small_options(tmp_path / "in", tmp_path / "no"))
    table = tmp_path / "in" / "targets.txt"
    table.write_text(table.read_text().replace("\t2\tsum", "\t-2\tsum"))
    turned = SpeciesData.open(make_dataset(small_options(tmp_path / "in", tmp_path / "turned")))
    assert turned.tracks[1].negative == 0 and turned.tracks[1].mean > 0
    row = int(turned.rows("train")[3])  # past base 150, the rest being the same
    assert np.array_equal(turned.targets(row), as_it_was.targets(row))
    assert not any("negative" in text for text in turned.manifest.report.warnings)


def test_negative_targets_are_counted_and_warned_of(tmp_path):
    folder = tmp_path / "in"
    own_strands = TABLE.replace("mean\t1", "mean\t0").replace("sum\t0", "sum\t1")
    write_inputs(folder, table=own_strands.replace("\t1\tmean", "\t-1\tmean"))
    data = SpeciesData.open(make_dataset(small_options(folder, tmp_path / "out")))
    below = sum(int((data.targets(row)[:, 0] < 0).sum()) for row in range(len(data)))
    assert (data.tracks[0].negative, data.tracks[1].negative) == (below, 0) and below
    (warning,) = [text for text in data.manifest.report.warnings if "negative" in text]
    assert f"track plus has negative coverage, in {below} bins: the Poisson loss" in warning


def test_files_of_tracks_that_are_urls_or_lie_elsewhere(tmp_path, monkeypatch):
    folder = tmp_path / "in"
    write_inputs(folder)
    for url in ("https://a.org/plus.bw", "s3://bucket/plus.bw"):
        (folder / "targets.txt").write_text(TABLE.replace("plus.bw", url))
        with pytest.raises(UserError, match=f"the file of plus: {url} is a URL.*download it first"):
            make_dataset(small_options(folder, tmp_path / "out"))
    (folder / "targets.txt").write_text(TABLE.replace("plus.bw", "in/plus.bw"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"in/plus.bw is there only relative to the working dir"):
        make_dataset(small_options(folder, tmp_path / "out"))
    monkeypatch.setenv("HOME", str(folder))
    (folder / "targets.txt").write_text(TABLE.replace("plus.bw", "~/plus.bw"))
    assert make_dataset(small_options(folder, tmp_path / "out")).is_dir()


def test_sums_beyond_float32_are_cut_to_float16(tmp_path):
    """FLT_MAX, as some tools write what is missing, has no sum in float32."""
    write_inputs(tmp_path / "in")
    with pyBigWig.open(str(tmp_path / "in" / "plus.bw"), "w") as file:
        file.addHeader(list(LENGTHS.items()))
        for name in LENGTHS:
            file.addEntries(name, 0, values=[1.0] * 300 + [3.4e38] * 20, span=1, step=1)
    advice = []
    with warnings.catch_warnings(action="error"):
        make_dataset(small_options(tmp_path / "in", tmp_path / "out"), advise=advice.append)
    data = SpeciesData.open(tmp_path / "out" / "tiny")
    assert data.tracks[0].saturated == 2 * len(LENGTHS)  # bins, the same of each contig
    assert any("one bin holds much of the whole signal of plus at chr" in line for line in advice)

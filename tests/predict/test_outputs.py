from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from small_models import BIN, LENGTHS, genome, predictor, tracks_of

from spacescale.errors import UserError
from spacescale.genome.bigwig import BigWig
from spacescale.predict import outputs
from spacescale.predict.outputs import file_names, write_session, write_tracks
from spacescale.predict.places import Place
from spacescale.predict.regions import RegionPredictions

PLACES = [Place("chr1", 100, 300), Place("chr2", 0, 57)]
ROWS = [0, 3]


def written(folder, file_format):
    model = predictor()
    found = RegionPredictions(model, genome(), PLACES, rows=ROWS)
    files = write_tracks(folder, found, model.tracks, ROWS, LENGTHS, BIN, file_format)
    return files, list(found)


def test_bigwigs_hold_what_was_predicted(tmp_path):
    files, stretches = written(tmp_path, "bigwig")
    assert [file.name for file in files] == ["finch_cage_0.bw", "finch_dnase_atac_3.bw"]
    import pyBigWig

    for row, file in enumerate(files):
        with pyBigWig.open(str(file)) as other:
            assert list(other.chroms().items()) == list(LENGTHS.items())
            assert other.intervals("chrX") is None
            assert other.intervals("chr2")[-1][:2] == (56, 57)  # the last bin ends with the contig
        with BigWig(file) as ours:
            for stretch in stretches:
                end = min(stretch.start + BIN * len(stretch.values), LENGTHS[stretch.chrom])
                found = ours.read(stretch.chrom, stretch.start, end)
                expected = np.repeat(stretch.values[:, row], BIN)[: end - stretch.start]
                np.testing.assert_allclose(found, expected, rtol=1e-6)
            assert np.isnan(ours.read("chr1", 0, 96)).all()


def test_bedgraphs_hold_the_same(tmp_path):
    files, stretches = written(tmp_path, "bedgraph")
    lines = [line.split("\t") for line in files[1].read_text().splitlines()]
    assert lines[0][:3] == ["chr1", "96", "104"] and lines[-1][:3] == ["chr2", "56", "57"]
    expected = np.concatenate([stretch.values[:, 1] for stretch in stretches])
    np.testing.assert_allclose([float(line[3]) for line in lines], expected, rtol=1e-5)


def test_files_of_one_name_are_told_apart():
    one, like = tracks_of("finch")[0], replace(tracks_of("finch")[0], identifier="finch_cage_0.0")
    assert file_names([one, one], [0, 1], ".bw") == ["finch_cage_0.0.bw", "finch_cage_0.1.bw"]
    assert len(set(file_names([one, one, like], [0, 1, 2], ".bw"))) == 3


def test_a_session_names_the_files_beside_it(tmp_path):
    path = tmp_path / "igv_session.xml"
    write_session(path, [tmp_path / "a & b.bw"], tmp_path / "genome.fa", "chr1:1-9")
    root = ElementTree.parse(path).getroot()
    assert root.get("locus") == "chr1:1-9"
    assert [part.get("path") for part in root.iter("Resource")] == ["a & b.bw"]


def test_without_the_library_another_format_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyBigWig", None)
    with pytest.raises(UserError, match=r"spacescale\[predict\].*--format bedgraph"):
        written(tmp_path, "bigwig")


def test_more_tracks_than_files_may_be_open_are_refused(tmp_path, monkeypatch):
    """pyBigWig crashes the process where it cannot open a file."""
    monkeypatch.setattr(outputs.resource, "getrlimit", lambda _: (50, 66))
    monkeypatch.setattr(outputs.resource, "setrlimit", lambda *_: None)
    files, _ = written(tmp_path, "bigwig")
    assert len(files) == 2
    monkeypatch.setattr(outputs.resource, "getrlimit", lambda _: (50, 60))
    with pytest.raises(UserError, match="2 tracks are 2 open files, and this system allows 60"):
        written(tmp_path, "bigwig")

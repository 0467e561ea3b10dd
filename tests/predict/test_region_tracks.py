"""`spacescale predict` as a whole: its folder, in several processes, of another genome."""

import json

import numpy as np
import pytest
from small_models import BIN, genome, predictor, write_export

from spacescale.errors import UserError
from spacescale.predict.predictor import Predictor
from spacescale.predict.region_figures import RegionFigure
from spacescale.predict.region_tracks import Request, predict
from spacescale.predict.regions import RegionPredictions, read_places

REGIONS = ["chr1:100-700", "chr2"]


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.long
def test_two_processes_write_the_bytes_of_one(fasta, tmp_path):
    model = Predictor.load(write_export(tmp_path / "weights"), "finch", "cpu", batch_size=2)
    request = Request(fasta, REGIONS, ["cage", "*3"], unit="stored", both_strands=True)
    predict(model, request, tmp_path / "one")
    several = Request(**{**vars(request), "devices": ("cpu", "cpu")})
    predict(model, several, tmp_path / "two")
    found = content(tmp_path / "two")
    assert found == content(tmp_path / "one")
    assert set(found) >= {"predicted.json", "igv_session.xml", "chr1_100_700.png", "chr2_0_57.png"}
    assert json.loads(found["predicted.json"])["species"] == "finch"


def test_a_process_that_dies_leaves_nothing(fasta, tmp_path):
    weights = write_export(tmp_path / "weights")
    model = Predictor.load(weights, "finch", "cpu")
    (weights / "model.safetensors").write_bytes(b"")
    request = Request(fasta, REGIONS, devices=("cpu",), figure=False)
    with pytest.raises(UserError, match=r"model\.safetensors"):
        predict(model, request, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("at_once", [1, 100_000])
def test_a_table_holds_the_bins_of_all_regions(fasta, tmp_path, monkeypatch, at_once):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("spacescale.predict.outputs.BINS_AT_ONCE", at_once)
    model = predictor()
    request = Request(fasta, REGIONS, ["cage"], file_format="parquet", figure=False)
    (path,) = predict(model, request, tmp_path / "out")
    table = parquet.read_table(path).to_pydict()
    places = read_places(REGIONS, genome())
    expected = list(RegionPredictions(model, genome(), places, rows=[0]))
    values = np.concatenate([stretch.values[:, 0] for stretch in expected])
    np.testing.assert_array_equal(table["finch_cage_0"], values)
    assert (table["chrom"][0], table["start"][0], table["end"][0]) == ("chr1", 96, 104)
    assert (table["chrom"][-1], table["start"][-1], table["end"][-1]) == ("chr2", 56, 57)


def test_a_figure_draws_means_of_the_bins():
    model = predictor()
    (place,) = read_places(["chr1:8-808"], genome())
    figure = RegionFigure(place, BIN, 5)
    stretches = list(RegionPredictions(model, genome(), [place]))
    for stretch in stretches:
        figure.add(stretch)
    values = np.concatenate([stretch.values for stretch in stretches])
    np.testing.assert_allclose(figure.sums / figure.counts, values, rtol=1e-6)
    assert figure.edges.tolist() == list(range(8, 809, 8))


def test_figures_are_drawn_unasked_of_few_small_regions(fasta, tmp_path, monkeypatch):
    monkeypatch.setattr("spacescale.predict.region_tracks.LONGEST_FIGURE", 599)
    for name, figure in (("unasked", None), ("asked", True)):
        predict(predictor(), Request(fasta, REGIONS, ["cage"], figure=figure), tmp_path / name)
    assert not list((tmp_path / "unasked").glob("*.png"))
    assert len(list((tmp_path / "asked").glob("*.png"))) == 2


def test_a_genome_of_another_assembly_is_refused(fasta, tmp_path, caplog):
    model = predictor()
    model.trained.data_contigs["finch"] = {"chr1": 999, "chr2": 57}
    request = Request(fasta, REGIONS, figure=False)
    with pytest.raises(UserError, match=r"chr1 has 1,000 bp; .* 1 of 2 contigs differ.*any-genome"):
        predict(model, request, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    predict(model, Request(**{**vars(request), "any_genome": True}), tmp_path / "out")
    model.trained.data_contigs["finch"] = {"scaffold_1": 1000}
    predict(model, request, tmp_path / "other")
    assert "no contig has the name" in caplog.text

import csv
import json

import numpy as np
import pytest
from small_models import genome, predictor

from spacescale.errors import UserError
from spacescale.predict.attribution import Attributor, Scope
from spacescale.predict.region_attributions import Request, attribute, contributions
from spacescale.predict.regions import bases

DNA = genome()


@pytest.mark.parametrize("method", ["ism", "gradient"])
def test_regions_are_explained_in_the_middle_of_their_windows(fasta, tmp_path, method):
    model, out = predictor(), tmp_path / "out"
    request = Request(fasta, ["chr1:500-510", "chr2:1-11"], ["cage"], method)
    assert attribute(model, request, out) == f"2 regions attributed by {method}"
    # 10 bp in a window of 128: 59 to 69; the span of 80 begins at 24, so bins 4 and 5 touch them.
    window = bases(DNA.contigs["chr1"], 500 - 59, 128)
    expected = Attributor(model, Scope((0, 2), 4, 6)).attribute(window, method, 59, 69)
    with (out / "attributions.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [r["chrom"] for r in rows] == ["chr1"] * 10 + ["chr2"] * 10
    found = np.array([[float(r[base]) for base in "ACGT"] for r in rows[:10]]).T
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)
    assert [r["base"] for r in rows[:10]] == ["ACGTN"[c] for c in DNA.contigs["chr1"][500:510]]
    assert np.load(out / "modisco.attributions.npz")["arr_0"].shape == (2, 4, 10)
    assert (out / "chr1_500_510.png").stat().st_size > 2000
    assert json.loads((out / "attributed.json").read_text())["tracks"] == [
        "finch_cage_0", "finch_cage_2",
    ]  # fmt: skip


def test_what_a_base_contributes():
    sequence = np.eye(4, dtype=np.float32)[:, [1, 2]]
    values = np.arange(8, dtype=np.float32).reshape(4, 2) * (1 - sequence)
    shown = contributions(sequence, values, "ism")
    assert shown[1, 0] == pytest.approx(-values[:, 0].sum() / 3) and shown[2, 1] != 0
    assert np.count_nonzero(shown) == 2
    assert (contributions(sequence, values, "gradient") == sequence * values).all()


def test_longer_regions_than_the_model_predicts_are_refused(fasta, tmp_path):
    request = Request(fasta, ["chr1:500-581"], [])
    with pytest.raises(UserError, match="chr1:500-581: 81 bp; this model explains at most 80 bp"):
        attribute(predictor(), request, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_left_out_is_said(fasta, tmp_path, monkeypatch):
    monkeypatch.setattr("spacescale.predict.region_attributions.LONGEST_FIGURE", 15)
    request = Request(fasta, ["chr1:500-520", "chr1:510-520", "chr1:500-520"], ["cage"], "gradient")
    said = attribute(predictor(), request, tmp_path / "out")
    assert said.startswith("3 regions") and "several lengths" in said and "1 logos" in said
    with (tmp_path / "out" / "attributions.tsv").open() as file:
        starts = [int(row["start"]) for row in csv.DictReader(file, delimiter="\t")]
    assert starts == [*range(500, 520), *range(510, 520), *range(500, 520)]


def test_attributions_that_are_not_finite_are_refused(fasta, tmp_path):
    model = predictor()
    model.model.pointwise[2].weight.data.fill_(float("nan"))
    with pytest.raises(UserError, match="attributions are not finite"):
        attribute(model, Request(fasta, ["chr1:500-510"], [], "gradient"), tmp_path / "out")
    assert not (tmp_path / "out").exists()

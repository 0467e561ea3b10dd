import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_models import WINDOW, predictor, trained
from tiny_models import some_codes

from spacescale.errors import UserError
from spacescale.genome.transforms import TRANSFORMS
from spacescale.model import add_species
from spacescale.model.layers import one_hot
from spacescale.predict.predictor import Predictor

LETTERS = np.array(list("ACGTN"))


def text_of(codes: torch.Tensor) -> str:
    return "".join(LETTERS[codes.numpy()])


def test_strings_codes_and_bases_are_the_same():
    model = predictor()
    codes = some_codes(5, WINDOW)
    with torch.no_grad():
        expected = model.model({"finch": codes}).prediction["finch"].numpy()
    many = [text_of(one) for one in codes]
    for given in (codes, codes.numpy(), many, one_hot(codes, torch.float32)):
        np.testing.assert_allclose(model.predict(given), expected, rtol=1e-5)
    single = model.predict(many[0].lower())
    assert single.shape == expected.shape[1:] and single.dtype == np.float32
    np.testing.assert_allclose(single, expected[0], rtol=1e-5)


def test_log1p_is_taken_back():
    codes = some_codes(1, WINDOW)
    raw, log1p = predictor().predict(codes), predictor(scale="log1p").predict(codes)
    np.testing.assert_allclose(log1p, np.expm1(raw), rtol=1e-5)


def test_units():
    model = predictor()
    codes = some_codes(2, WINDOW)
    means, stored = model.predict(codes), model.predict(codes, "stored")
    np.testing.assert_allclose(stored, means * [0.5, 1.5, 2.5, 3.5, 4.5], rtol=1e-5)
    coverage = model.predict(codes, "coverage")
    np.testing.assert_allclose(coverage[..., [0, 2, 3, 4]], stored[..., [0, 2, 3, 4]], rtol=1e-5)
    expected = TRANSFORMS["basenji2020"].coverage(stored[..., 1], model.tracks[1])
    np.testing.assert_array_equal(coverage[..., 1], expected)
    assert (coverage[..., 1] < stored[..., 1]).all()  # half of it, and unclipped
    with pytest.raises(UserError, match="targets of perch were made of coverage: not recorded"):
        predictor("perch").predict(codes, "coverage")


@pytest.mark.parametrize("unit", ["means", "stored", "coverage"])
@pytest.mark.parametrize("scale", ["mean", "log1p"])
def test_the_other_strand_says_what_the_opposite_tracks_store(unit, scale):
    """Tracks 0 and 2 are a pair, and their means are 0.5 and 2.5."""
    model = predictor(scale=scale)
    codes = some_codes(2, WINDOW)
    flipped = torch.from_numpy(np.array([3, 2, 1, 0, 4], np.uint8)[codes.flip(1).numpy()])
    stored = model.predict(flipped, "stored")[:, ::-1][..., [2, 1, 0, 3, 4]]
    if unit == "means":
        other = stored / [0.5, 1.5, 2.5, 3.5, 4.5]
    elif unit == "coverage":
        transform = TRANSFORMS["basenji2020"]
        other = [transform.coverage(stored[..., i], t) for i, t in enumerate(model.tracks)]
        other = np.stack(other, axis=-1)
    else:
        other = stored
    np.testing.assert_allclose(model.predict(codes, unit, "reverse"), other, rtol=1e-5)
    both = (model.predict(codes, unit) + other) / 2
    np.testing.assert_allclose(model.predict(codes, unit, "both"), both, rtol=1e-5)
    bases = one_hot(codes, torch.float32)
    np.testing.assert_allclose(
        model.predict(bases, unit, "both", [4, 0]), both[..., [4, 0]], rtol=1e-5
    )


def test_predictions_that_are_not_finite_are_refused():
    model = predictor()
    model.model.pointwise[2].weight.data.fill_(float("nan"))
    with pytest.raises(UserError, match="predictions are not finite"):
        model.predict(some_codes(1, WINDOW))
    with pytest.raises(UserError, match="features are not finite"):
        model.embed("ACGT")


def test_means_that_are_not_known_are_not_made_up():
    unnamed = trained("none")
    unnamed.tracks["finch"] = [replace(track, mean=math.nan) for track in unnamed.tracks["finch"]]
    model = Predictor(unnamed, "finch", "cpu")
    with pytest.raises(
        UserError, match="means of 5 tracks of finch are not known; take unit stored"
    ):
        model.predict(some_codes(1, WINDOW))
    assert np.isfinite(model.predict(some_codes(1, WINDOW), "stored")).all()


def test_a_device_that_is_not_there_is_named():
    with pytest.raises(UserError, match="device cuda:77: "):
        Predictor(trained(), "finch", "cuda:77")


def test_embeddings_of_any_length():
    model = predictor()
    codes = some_codes(4, 37)
    with torch.no_grad():
        expected = model.model.embed(codes, "finch").numpy()
    np.testing.assert_allclose(model.embed(codes), expected, rtol=1e-4, atol=1e-5)
    assert model.embed("ACGTA", "stem").shape[0] == 3
    flipped = torch.from_numpy(np.array([3, 2, 1, 0, 4], np.uint8)[codes.flip(1).numpy()])
    both = (expected + model.embed(flipped)[:, ::-1]) / 2
    np.testing.assert_allclose(model.embed(codes, both_strands=True), both, rtol=1e-4, atol=1e-5)


def test_the_species_is_said_where_there_is_a_choice():
    with pytest.raises(UserError, match="knows finch, perch: say which species is meant"):
        Predictor(trained())
    with pytest.raises(UserError, match="no species 'finsh'; did you mean finch"):
        Predictor(trained(), "finsh")
    newt = trained()
    newt.model = add_species(newt.model, "newt")
    model = Predictor(newt, "newt", "cpu")
    assert model.embed("ACGT").shape == (1, 96)
    with pytest.raises(UserError, match="species 'newt' of somewhere has no tracks"):
        model.predict("A" * WINDOW)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("ACGT", r"sequences of 4 bp: this model predicts from 128 bp"),
        ("ACGTACGZ" * 16, r"has 'Z', which is no DNA letter"),
        (["ACGT", "ACG"], r"2 sequences of 3 to 4 bp: expected one length"),
        ([], r"0 sequences: expected one length"),
        (np.zeros((2, 3, 128), np.float32), r"float32 \(2, 3, 128\): expected codes"),
        (np.zeros((1, 2, 128), np.uint8), r"uint8 \(1, 2, 128\): expected codes"),
    ],
)
def test_what_is_no_window_is_refused(given, message):
    with pytest.raises(UserError, match=message):
        predictor().predict(given)


def test_tracks_by_name_assay_index_and_pattern():
    model = predictor()
    assert model.choose_tracks([]) == [0, 1, 2, 3, 4]
    assert model.choose_tracks(["cage", "11"]) == [0, 1, 2]
    assert model.choose_tracks(["finch_dnase_atac_3"]) == [3]
    assert model.choose_tracks(["*:cell 4", "finch_cage*"]) == [0, 2, 4]
    with pytest.raises(UserError, match="somewhere: no track 'caje'; did you mean cage"):
        model.choose_tracks(["caje"])


def test_half_precision_answers_in_float32():
    codes = some_codes(2, WINDOW)
    model = Predictor(trained(), "finch", "cpu", "bfloat16")
    found, expected = model.predict(codes), predictor().predict(codes)
    assert found.dtype == np.float32 and (found != expected).any()
    np.testing.assert_allclose(found, expected, rtol=0.2, atol=0.1)

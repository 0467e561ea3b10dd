import numpy as np
import pytest
import torch
from small_models import WINDOW, predictor
from tiny_models import some_codes

from spacescale.errors import UserError
from spacescale.predict.attribution import (
    METHODS,
    Attributor,
    Scope,
    save_for_modisco,
    sequence_of,
)

SCOPE = Scope(tracks=(0, 3), first_bin=4, last_bin=6)
CODES = some_codes(1, WINDOW).numpy()[0]


def attributor(scale="mean", **changes):
    return Attributor(predictor(scale=scale, **changes), SCOPE)


def test_the_score_is_a_mean_of_tracks_and_a_sum_of_bins():
    found = attributor("log1p")
    expected = found.predictor.predict(CODES)[4:6, [0, 3]].mean(1).sum()
    score = float(found.score(torch.from_numpy(CODES)[None]).detach())
    assert score == pytest.approx(float(expected), rel=1e-5)


def test_mutagenesis_is_the_change_by_every_substitution():
    found = attributor()
    changes = found.attribute(CODES, "ism", 60, 66)
    assert changes.shape == (4, 6)
    for at in range(6):
        for base in range(4):
            mutant = CODES.copy()
            mutant[60 + at] = base
            both = torch.from_numpy(np.stack([mutant, CODES]))
            with torch.no_grad():
                after, before = found.score(both).tolist()
            assert changes[base, at] == pytest.approx(after - before, abs=1e-5)
    standing = CODES[60:66]
    assert (changes[standing[standing < 4], np.flatnonzero(standing < 4)] == 0).all()
    assert np.abs(changes).max() > 1e-4


def test_gradients_are_those_of_the_score_less_their_mean():
    found = attributor(decoder="mlp", species_num_experts=0)
    gradient = found.attribute(CODES, "gradient")
    np.testing.assert_allclose(gradient.sum(0), 0, atol=1e-6)
    bases = torch.from_numpy(sequence_of(CODES))
    for at in (63, 70):
        ends = torch.stack([bases, bases])
        ends[0, 1, at] += 0.01
        ends[0, 2, at] -= 0.01  # what is common to all four bases falls out
        with torch.no_grad():
            after, before = found.score(ends).tolist()
        slope = (after - before) / 0.01
        assert gradient[1, at] - gradient[2, at] == pytest.approx(slope, abs=2e-3, rel=0.05)


def test_integrated_gradients_add_up_to_the_difference():
    found = attributor(decoder="mlp", species_num_experts=0)
    parts = found.attribute(CODES, "integrated", steps=256)
    bases = torch.from_numpy(sequence_of(CODES))
    with torch.no_grad():
        whole, none = found.score(torch.stack([bases, torch.zeros_like(bases)])).tolist()
    assert float((parts * sequence_of(CODES)).sum()) == pytest.approx(whole - none, rel=0.02)
    cut = found.attribute(CODES, "integrated", 60, 66, steps=256)
    np.testing.assert_allclose(cut, parts[:, 60:66], rtol=1e-5)


def test_what_modisco_reads(tmp_path):
    found = attributor()
    maps = [found.attribute(CODES, "gradient", 10, 60)] * 3
    names = save_for_modisco([sequence_of(CODES[10:60])] * 3, maps, str(tmp_path / "cage"))
    shapes = [np.load(name)["arr_0"].shape for name in names]
    assert shapes == [(3, 4, 50)] * 2


@pytest.mark.parametrize(
    ("scope", "message"),
    [
        (Scope((), 0, 1), "no track to explain"),
        (Scope((0,), 9, 11), "bins 9 to 11: this model predicts bins 0 to 10"),
    ],
)
def test_a_scope_of_nothing_is_refused(scope, message):
    with pytest.raises(UserError, match=message):
        Attributor(predictor(), scope)
    assert set(METHODS) == {"ism", "gradient", "integrated"}

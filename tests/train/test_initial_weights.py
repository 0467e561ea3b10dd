import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path += [str(Path(__file__).parents[1] / part) for part in ("model", "predict")]

from small_models import tracks_of, trained
from tiny_models import some_codes, tiny_model

from spacescale.errors import UserError
from spacescale.train.initial_weights import start_from

CODES = some_codes(2)


@pytest.fixture
def weights():
    return trained()


def started(weights, tracks, like=None, **changes):
    species = {name: tuple(track.assay for track in some) for name, some in tracks.items()}
    model = tiny_model(seed=9, species=species, **changes)
    return model, start_from(model, tracks, weights, like)


def predictions(model, species):
    with torch.no_grad():
        return model.eval()({species: CODES}).prediction[species]


def test_the_same_species_and_tracks_are_the_same_model(weights):
    tracks = {name: tracks_of(name) for name in ("perch", "finch")}  # in another order
    model, taken = started(weights, tracks)
    for name in tracks:
        assert torch.equal(predictions(model, name), predictions(weights.model, name))
    assert taken.lines("mean")[1:] == ["new, and initialised: nothing", "left over: nothing"]
    assert "predicted multiples of each track's training mean" in taken.lines("log1p")[-1]


def test_tracks_are_matched_by_name(weights):
    tracks = {"finch": list(reversed(tracks_of("finch")))[:3]}
    tracks["finch"].append(replace(tracks["finch"][0], identifier="another"))
    model, taken = started(weights, tracks, decoder="none")
    old = weights.model.heads["finch"]
    new = model.heads["finch"]
    assert torch.equal(new.weight[:3], old.weight[[4, 3, 2]])
    assert torch.equal(new.bias[:3], old.bias[[4, 3, 2]])
    assert not torch.equal(new.weight[3], old.weight[4])
    assert "1 tracks of finch (another)" in taken.fresh
    assert "2 tracks of finch (finch_cage_0, finch_tf_chip_1)" in taken.left_over
    assert "species perch" in taken.left_over


def test_a_new_species_starts_at_the_mean_and_disturbs_no_other(weights):
    moth = [replace(tracks_of("perch")[0], identifier="m", assay="atac")]  # before all other types
    tracks = {"moth": moth, "finch": tracks_of("finch"), "perch": tracks_of("perch")}
    model, taken = started(weights, tracks)
    for name in ("finch", "perch"):
        assert torch.equal(predictions(model, name), predictions(weights.model, name))
    token = weights.model.species_token.weight
    torch.testing.assert_close(model.species_token.weight[0], token.mean(0))
    assert taken.fresh == ["species moth", "profile type atac"] and taken.left_over == []


def test_a_new_species_may_start_like_another(weights):
    tracks = {"moth": [replace(tracks_of("perch")[0], identifier="m")], "perch": tracks_of("perch")}
    model, taken = started(weights, tracks, like="finch")
    known, found = weights.model.state_dict(), model.state_dict()
    for key in ("species_token.weight", "transformer.1.moe.router.weight"):
        finch, perch = known[key].unbind()
        assert torch.equal(found[key], torch.stack([finch, perch]))
    assert taken.fresh == ["species moth (token and gates as those of finch)"]
    with pytest.raises(
        UserError, match=r"^--like fnch \(did you mean 'finch'\?\): somewhere knows"
    ):
        started(weights, tracks, like="fnch")
    with pytest.raises(UserError, match="--like finch: somewhere knows all species of this run"):
        started(weights, {"perch": tracks_of("perch")}, like="finch")


def test_a_decoder_of_another_length_starts_afresh(weights):
    tracks = {name: tracks_of(name) for name in ("finch", "perch")}
    model, taken = started(weights, tracks, target_length=8)
    assert "decoder.experts.w1" in taken.fresh and "decoder.from_sequence.weight" not in taken.fresh
    with torch.no_grad():
        found, old = model.eval()({"finch": CODES}), weights.model({"finch": CODES})
    torch.testing.assert_close(found.embedding["finch"], old.embedding["finch"][:, 1:9])


def test_another_shape_is_refused(weights):
    tracks = {"finch": tracks_of("finch")}
    with pytest.raises(
        UserError, match=r"--init somewhere: stem\.0\.weight is \(24, 4, 15\), and "
    ):
        started(weights, tracks, dim=72)
    with pytest.raises(UserError, match=r"transformer\.2\..* is none, and"):
        started(weights, tracks, depth=3)

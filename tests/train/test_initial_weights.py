import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path += [str(Path(__file__).parents[1] / part) for part in ("model", "predict")]

from small_models import tracks_of, trained
from tiny_models import SPECIES, some_codes, tiny_config, tiny_model

from spacescale.config import Config
from spacescale.errors import UserError
from spacescale.train.initial_weights import start_from, with_own_experts

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


def test_tracks_of_the_same_name_are_matched_in_turn(weights):
    tracks = tracks_of("finch")
    tracks[2] = replace(tracks[2], identifier=tracks[0].identifier)
    weights.tracks["finch"] = tracks
    model, _ = started(weights, {"finch": tracks, "perch": tracks_of("perch")})
    assert torch.equal(model.heads["finch"].weight, weights.model.heads["finch"].weight)


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


def with_moth(**changes):
    """The configuration of a run of old species and moth."""
    return Config(model=tiny_config(species={**SPECIES, "moth": ("atac",)}, **changes))


def test_new_species_get_own_experts_and_the_others_keep_theirs():
    old = trained(species_num_experts=5, own_experts={"perch": 1})
    model = with_own_experts(with_moth(), old, 2).model
    assert list(model.own_experts.items()) == [("perch", 1), ("moth", 2)]
    assert (model.species_num_experts, model.num_shared_experts) == (7, 4)
    kept = with_moth(species_num_experts=5, own_experts={"perch": 1})  # as optim.only_new has it
    assert with_own_experts(kept, old, 2).model == model
    named = with_moth(species_num_experts=5, own_experts={"moth": 1})
    named = with_own_experts(named, old, 2).model
    assert named.own_experts == {"perch": 1, "moth": 1} and named.num_shared_experts == 4


def test_own_experts_for_nobody_are_refused():
    with pytest.raises(UserError, match="--own-experts 2: somewhere knows all species of this run"):
        with_own_experts(Config(model=tiny_config()), trained(), 2)
    with pytest.raises(UserError, match=r"2: model.own_experts={'moth': 2}, but the encoder has"):
        with_own_experts(with_moth(species_num_experts=0), trained(species_num_experts=0), 2)
    with pytest.raises(UserError, match=r"^--own-experts 0: own_experts\.moth=0: .*greater than"):
        with_own_experts(with_moth(), trained(), 0)


def test_own_experts_start_as_shared_ones_and_go_with_their_species(weights):
    moth = [replace(tracks_of("perch")[0], identifier="m")]
    tracks = {"perch": tracks_of("perch"), "finch": tracks_of("finch"), "moth": moth}
    own = {"species_num_experts": 7, "own_experts": {"perch": 1, "moth": 2}}
    model, taken = started(weights, tracks, like="finch", **own)
    assert taken.fresh[-2:] == [
        "1 own experts of perch in each block",
        "2 own experts of moth in each block",
    ]
    known, found = weights.model.state_dict(), model.state_dict()
    experts, router = (f"transformer.1.moe.{x}" for x in ("mixture.experts.w2", "router.weight"))
    assert torch.equal(found[experts], known[experts][[0, 1, 2, 3, 0, 0, 1]])
    assert torch.equal(found[router][2], known[router][0, [0, 1, 2, 3, 0, 0, 1]])
    assert torch.equal(predictions(model, "finch"), predictions(weights.model, "finch"))
    with torch.no_grad():
        model.transformer[1].moe.mixture.experts.w2[4:] += torch.arange(3)[:, None, None]
    of_all = replace(weights, model=model, tracks=tracks)
    again, taken = started(of_all, {"moth": moth}, species_num_experts=5, own_experts={"moth": 1})
    assert torch.equal(again.state_dict()[experts], model.state_dict()[experts][[0, 1, 2, 3, 5]])
    assert taken.left_over[-2:] == [
        "1 own experts of perch in each block",
        "1 own experts of moth in each block",
    ]


def test_another_number_of_shared_experts_is_refused(weights):
    tracks = {"finch": tracks_of("finch")}
    own = {"species_num_experts": 4, "own_experts": {"finch": 1}}
    message = r"experts\.w1 is \(4, 96, 48\), and \(3, 96, 48\) in this run"
    with pytest.raises(UserError, match=message):
        started(weights, tracks, **own)

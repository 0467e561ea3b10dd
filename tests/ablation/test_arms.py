"""Words become arms, and arms keep off what the command sets."""

import pytest

from spacescale.ablation.arms import TABLE4, Arm, read_arms, require_free
from spacescale.errors import UserError
from spacescale.overrides import build_config
from spacescale.presets import PRESETS


def test_sets_names_and_own_arms():
    assert [arm.name for arm in read_arms(["table4"])] == list(TABLE4)
    own = 'mine=loss.mi_weight=0,loss.species_weight={"a": 1, "b": 2},model.depth=3'
    assert read_arms(["full", own, "plain="]) == [
        Arm("full", ()),
        Arm("mine", ("loss.mi_weight=0", 'loss.species_weight={"a": 1, "b": 2}', "model.depth=3")),
        Arm("plain", ()),
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dense_encoded"], "did you mean 'dense_encoder'"),
        (["null=model.depth=1"], "'null' cannot be the name of an arm"),
        (["../up=model.depth=1"], "'../up' cannot be"),
        (["moe-dense", "full"], "full is given twice"),
    ],
)
def test_wrong_words(words, message):
    with pytest.raises(UserError, match=message):
        read_arms(words)


def test_what_options_set_is_refused():
    require_free(["optim.lr=1"], ("run.seed",), "here")
    with pytest.raises(UserError, match=r"here: optim.lr=1 is what --lr sets"):
        require_free(["model.depth=2", "optim.lr=1"], ("optim.lr",), "here")


@pytest.mark.parametrize(
    ("arm", "preset"),
    [
        ("no_decoder", "space_no_decoder"),
        ("mlp_decoder", "space_mlp_decoder"),
        ("dense_encoder", "space_dense_encoder"),
        ("dense_no_species", "space_dense_no_species"),
    ],
)
def test_table4_is_that_of_the_presets(arm, preset):
    """Of what the released code carries without use: whatever the preset it starts from has."""
    ours = build_config("space_small", list(TABLE4[arm])).model
    theirs = build_config(preset, []).model
    unused = {"unused_layer_norm", "tracks_num_experts"} if "decoder" in arm else set()
    assert ours.model_dump(exclude=unused) == theirs.model_dump(exclude=unused)
    assert preset in PRESETS

"""Presets, overrides, messages and the JSON round trip of the configuration."""

import pytest
from pydantic import ValidationError

from spacescale.config import Config, ModelConfig
from spacescale.errors import UserError
from spacescale.overrides import build_config
from spacescale.presets import DEFAULT_PRESET, EMBEDDED_PRESET, PRESETS


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_builds_and_holds_what_it_names(preset):
    config = build_config(preset, [])
    assert config.preset == preset
    for section, fields in PRESETS[preset].items():
        for name, value in fields.items():
            assert getattr(getattr(config, section), name) == value
    assert config.model.bin_size == 2**config.model.num_downsamples
    assert config.model.target_length * config.model.bin_size <= config.model.seq_length


def test_the_default_presets_exist():
    assert {DEFAULT_PRESET, EMBEDDED_PRESET} <= PRESETS.keys()


@pytest.mark.parametrize(
    "override, section, name, value",
    [
        ("optim.lr=1e-3", "optim", "lr", 1e-3),
        ("optim.max_steps=700", "optim", "max_steps", 700),
        ("data.reverse_complement=false", "data", "reverse_complement", False),
        ("loss.track_scale=none", "loss", "track_scale", "none"),
        ("parallel.ep_size=auto", "parallel", "ep_size", "auto"),
        ("parallel.ep_size=4", "parallel", "ep_size", 4),
    ],
)
def test_an_override_sets_one_field_and_nothing_else(override, section, name, value):
    config, plain = build_config("space_demo", [override]), build_config("space_demo", [])
    assert getattr(getattr(config, section), name) == value
    changed = config.model_dump()
    changed[section][name] = plain.model_dump()[section][name]
    assert changed == plain.model_dump()


def test_the_objective_is_overridden_by_its_name_alone():
    config = build_config("space_demo", ["objective=profiles", "optim.lr=1e-3"])
    assert (config.objective, config.optim.lr) == ("profiles", 1e-3)


def test_overrides_win_over_presets_and_the_last_one_wins():
    config = build_config("space_demo", ["model.depth=3", "model.depth=5"])
    assert config.model.depth == 5 != PRESETS["space_demo"]["model"]["depth"]


def test_overriding_does_not_change_the_preset():
    before = build_config("space_demo", [])
    build_config("space_demo", ["optim.max_steps=300"])
    assert build_config("space_demo", []) == before


@pytest.mark.parametrize(
    "preset, overrides, message",
    [
        ("space_tyni", [], "unknown preset 'space_tyni' .did you mean 'space_tiny'..; there are: "),
        ("zzz", [], "unknown preset 'zzz'; there are: enformer, space_10b, "),
        ("space_demo", ["optim.lr"], "'optim.lr' is not an override; expected section.field="),
        ("space_demo", ["lr=1"], "'lr=1' is not an override"),
        ("space_demo", ["objective=words"], r"^objective='words': .*'profiles'"),
        ("space_demo", ["optm.lr=1"], "unknown section 'optm' .did you mean 'optim'."),
        ("space_demo", ["preset.x=1"], "unknown section 'preset'"),
        ("space_demo", ["optim.max_step=1"], "no field 'max_step' .did you mean 'max_steps'."),
        ("space_demo", ["optim.lr=fast"], "^optim.lr='fast': .*number"),
        ("space_demo", ["optim.lr=-1"], "^optim.lr=-1: .*greater than 0"),
        ("space_demo", ["optim.lr=NaN"], "^optim.lr=nan: .*finite"),
        ("space_demo", ["optim.max_steps=2.5"], "^optim.max_steps=2.5: "),
        ("space_demo", ["loss.track_scale=max"], "'max': .*'mean', 'log1p' or 'none'"),
        ("space_demo", ["parallel.ep_size=0"], "^parallel.ep_size.*=0: .*greater than or equal"),
        ("space_demo", ["model.heads=5"], "model.dim=96 must be divisible by heads=5"),
        ("space_demo", ["model.dim=64"], "= 16 must be divisible by 6"),
        ("space_demo", ["model.species_top_k=5"], "species_top_k=5 exceeds species_num_experts=4"),
        (
            "space_demo",
            ['model.own_experts={"ant": 2}'],
            "own_experts={'ant': 2} leaves 2 of species_num_experts=4 for all species, fewer than "
            "species_top_k=3; species_num_experts=5 would do",
        ),
        ("space_demo", ['model.own_experts={"ant": 0}'], "own_experts.ant=0: .*greater than or eq"),
        (
            "space_demo",
            ["model.species_num_experts=0", 'model.own_experts={"ant": 1}'],
            "own_experts={'ant': 1}, but the encoder has no experts",
        ),
        (
            "space_demo",
            ['model.own_experts={"ant": 1}', "model.zero_gates=released"],
            "own_experts={'ant': 1}: not with zero_gates=released",
        ),
        ("space_demo", ["model.tracks_top_k=9"], "tracks_top_k=9 exceeds tracks_num_experts=8"),
        (
            "space_demo",
            ["model.target_length=66"],
            "target_length=66 bins of 32 bp .*; 2112 would do",
        ),
        ("space_demo", ["model.target_length=47"], "equal whole bins .*; 2016 or 2080 would do"),
        ("space_demo", ["model.seq_length=2050"], "; 2048 or 2112 would do"),
        ("space_demo", ["model.dim_divisible_by=36"], "must be divisible by dim_divisible_by=36"),
        ("space_demo", ["optim.max_steps=9"], "warmup_steps=100 exceeds max_steps=9"),
        ("space_demo", ["data.paths=[]"], "data.paths comes from --data"),
        ("space_demo", ["model.species={}"], "model.species comes from --data"),
    ],
)
def test_what_is_wrong_is_named_with_what_is_allowed(preset, overrides, message):
    with pytest.raises(UserError, match=message) as caught:
        build_config(preset, overrides)
    assert "\n" not in str(caught.value)


def test_no_experts_switch_the_mixtures_off_whatever_top_k():
    config = build_config("space_demo", ["model.species_num_experts=0"])
    assert config.model.species_num_experts == 0 < config.model.species_top_k


def test_own_experts_are_the_last_ones_in_their_order():
    own = {"bee": 2, "ant": 1}
    model = ModelConfig(species={"ant": ("CAGE",), "bee": ()}, own_experts=own, species_top_k=1)
    assert model.expert_owners == (None, "bee", "bee", "ant") and model.num_shared_experts == 1
    assert ModelConfig(species_num_experts=0).expert_owners == ()
    with pytest.raises(ValidationError, match=r"own_experts={'cow': 1} names cow; .* are ant, bee"):
        ModelConfig(species={"ant": ("CAGE",), "bee": ()}, own_experts={"cow": 1})


@pytest.mark.parametrize("preset", PRESETS)
def test_a_configuration_survives_json(preset):
    config = build_config(preset, ["optim.lr=3e-4"])
    species = {"bee": ("CAGE", "DNASE"), "ant": ("CHIP",)}
    payload = config.model_dump()
    payload["model"]["species"] = species
    config = Config.model_validate(payload)
    again = Config.model_validate_json(config.model_dump_json())
    assert again == config
    assert list(again.model.species) == ["bee", "ant"], "the order of the heads"
    assert again.model.profile_types == ("CAGE", "CHIP", "DNASE")


def test_configurations_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        ModelConfig().dim = 3

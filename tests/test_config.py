"""Presets, overrides, messages and the JSON round trip of the configuration."""

import pytest
from pydantic import ValidationError

from spacescale.config import Config, merit
from spacescale.errors import UserError
from spacescale.overrides import build_config
from spacescale.presets import DEFAULT_PRESET, EMBEDDED_PRESET, PRESETS
from spacescale.space_config import ModelConfig

OF_TOKENS = [name for name, preset in PRESETS.items() if preset.get("objective") == "tokens"]
OF_PROFILES = [name for name in PRESETS if name not in OF_TOKENS]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_builds_and_holds_what_it_names(preset):
    config = build_config(preset, [])
    assert config.preset == preset
    assert config.objective == PRESETS[preset].get("objective", "profiles")
    for section, fields in PRESETS[preset].items():
        if section != "objective":
            plain = getattr(config, section).model_dump(mode="json")
            assert {name: plain[name] for name in fields} == fields


@pytest.mark.parametrize("preset", OF_PROFILES)
def test_presets_of_profiles_predict_bins_within_their_input(preset):
    model = build_config(preset, []).space
    assert model.bin_size == 2**model.num_downsamples
    assert model.target_length * model.bin_size <= model.seq_length


def test_presets_of_tokens_are_the_published_run():
    assert {
        "genomics_fm_base", "genomics_fm_large", "genomics_fm_tiny", "dnabert2", "dnabert"
    } == set(OF_TOKENS)  # fmt: skip
    config = build_config("genomics_fm_base", [])
    optim = config.optim
    assert (optim.lr, optim.beta1, optim.beta2, optim.eps) == (1e-4, 0.9, 0.98, 1e-6)
    assert (optim.schedule, optim.warmup_steps, optim.max_steps) == ("linear", 10_000, 1_000_000)
    assert (config.encoder.vocab_size, config.run.best_metric) == (7266, "valid/loss")
    alone = {name: build_config(name, []).mlm.vocabularies for name in ("dnabert2", "dnabert")}
    assert alone == {"dnabert2": ("bpe",), "dnabert": ("kmer",)}


def test_a_configuration_of_before_objectives_is_one_of_profiles():
    payload = build_config("space_demo", []).model_dump()
    del payload["objective"], payload["mlm"], payload["optim"]["schedule"], payload["optim"]["eps"]
    again = Config.model_validate(payload)
    assert again == build_config("space_demo", [])
    assert (again.optim.schedule, again.optim.eps) == ("cosine", 1e-8)


def test_what_needs_tracks_says_so_of_an_encoder():
    with pytest.raises(UserError, match="'dnabert', objective tokens: its model predicts no trac"):
        _ = build_config("dnabert", []).space


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
        ("zzz", [], "unknown preset 'zzz'; there are: dnabert, dnabert2, enformer, "),
        ("space_demo", ["optim.lr"], "'optim.lr' is not an override; expected section.field="),
        ("space_demo", ["lr=1"], "'lr=1' is not an override"),
        (
            "space_demo",
            ["objective=tokes"],
            "^objective='tokes': .*'profiles', .* or 'tokens'$",
        ),
        ("space_demo", ["objective=tokens"], "^objective=tokens trains an encoder, and preset 's"),
        ("dnabert", ["objective=profiles"], "^objective=profiles trains SPACE, and preset 'dnab"),
        ("space_demo", ["bases.rate=0.1"], "^bases.rate=0.1: has no meaning for objective=profil"),
        ("space_demo", ["mlm.kmer_span=9"], "^mlm.kmer_span=9: has no meaning for objective=prof"),
        ("dnabert", ["loss.mi_weight=1"], "^loss.mi_weight=1.0: has no meaning for objective=tok"),
        ("dnabert", ["data.shift_bp=1"], "^data.shift_bp=1: has no meaning for objective=tokens"),
        (
            "dnabert",
            ["model.seq_length=64"],
            "section 'model' has no field 'seq_length'; there are",
        ),
        ("dnabert", ["model.dim=wide"], "^model.dim='wide': .*integer"),
        ("dnabert", ["model.vocab_size=9"], "model.vocab_size comes from mlm.vocabulary; leave it"),
        ("dnabert", ["model.kind=space"], "model.kind comes from --preset; leave it out"),
        ("dnabert", ['mlm.vocabularies=["bpe", "bpe"]'], "^mlm.vocabularies=.*one stands twice"),
        ("dnabert", ["mlm.masked_share=0.95"], "^mlm.masked_share=0.95 and random_share=0.1 are"),
        ("dnabert", ["mlm.shortest_bp=600"], "^mlm.shortest_bp=600 exceeds the longest, 510"),
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


@pytest.mark.parametrize("preset", OF_TOKENS)
def test_a_configuration_of_tokens_survives_json(preset):
    config = build_config(preset, ["mlm.vocabulary=vocab"])
    assert Config.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize("preset", OF_PROFILES)
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


@pytest.mark.parametrize(
    "metric, less_is_better",
    [
        ("valid/loss", True),
        ("valid/loss/finch", True),
        ("valid/bases/perplexity", True),
        ("valid/bases/cross_entropy/finch", True),
        ("valid/bases/accuracy", False),
        ("valid/pearson_log1p/finch", False),
        ("valid/losses", False),
    ],
)
def test_of_losses_and_perplexities_less_is_better(metric, less_is_better):
    assert (merit(1.0, metric) > merit(2.0, metric)) is less_is_better

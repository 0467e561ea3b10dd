import pytest

from spacescale.overrides import build_config
from spacescale.planning.parameters import count_parameters
from spacescale.planning.species import with_species


def counts_of(preset: str, *overrides: str):
    return count_parameters(with_species(build_config(preset, list(overrides)), []).model)


# Paper's Table 16, as counted in the released code; the last two are the paper's scaling runs.
@pytest.mark.parametrize(
    ("preset", "overrides", "expected"),
    [
        ("space_large", (), 588_750_036),
        ("space_released", (), 588_750_036),
        ("space_small", (), 183_182_308),
        ("space_no_decoder", (), 150_947_204),
        ("space_dense_encoder", (), 105_181_836),
        ("space_large", ("model.species_num_experts=0", "model.decoder=none"), 251_224_364),
        ("enformer", (), 251_221_292),
        ("genomics_fm_base", (), 119_511_906),
        ("genomics_fm_large", (), 411_377_762),
        ("dnabert2", (), 117_074_176),
    ],
)
def test_published_counts_are_exact(preset, overrides, expected):
    assert counts_of(preset, *overrides).total == expected


@pytest.mark.parametrize(("preset", "expected"), [("space_2b", 2.67e9), ("space_10b", 10.5e9)])
def test_larger_presets(preset, expected):
    assert counts_of(preset).total == pytest.approx(expected, rel=0.01)


def test_a_track_expert_costs_what_the_paper_s_sizes_differ_by():
    more = counts_of("space_large", "model.tracks_num_experts=9").total
    assert more - counts_of("space_large").total == 3_213_952 + 7_176


def test_top_k_of_the_species_experts_are_active():
    large = counts_of("space_large")
    assert large.experts == 415_438_848
    assert large.total - large.active == large.experts // 4
    dense = counts_of("enformer")
    assert (dense.active, dense.experts) == (dense.total, 0)

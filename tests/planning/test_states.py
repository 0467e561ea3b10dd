import pytest

from spacescale.errors import UserError
from spacescale.overrides import build_config
from spacescale.parallel.expert_groups import resolve_ep_size
from spacescale.planning.parameters import ParameterCounts
from spacescale.planning.states import Layout, resolve_layout, state_bytes

LARGE = ParameterCounts(total=588_750_036, active=484_890_324, experts=415_438_848)


@pytest.mark.parametrize(("zero_stage", "gib"), [(0, 8.8), (1, 5.2), (2, 3.3), (3, 1.4)])
def test_large_model_on_eight_gpus(zero_stage, gib):
    found = state_bytes(LARGE, Layout(8, zero_stage, 1))
    assert found.total / 2**30 == pytest.approx(gib, abs=0.05)


def test_experts_are_spread_over_ep_size_and_sharded_over_their_replicas():
    counts = ParameterCounts(total=1000, active=1000, experts=800)
    found = state_bytes(counts, Layout(gpus=8, zero_stage=2, ep_size=4))
    assert found.weights == 4 * (200 + 800 / 4)
    assert found.gradients == 4 * (200 / 8 + 800 / 4 / 2)
    assert found.optimiser == 12 * (200 / 8 + 800 / 4 / 2)


def test_expert_parallelism_changes_nothing_under_zero_3():
    apart, together = (state_bytes(LARGE, Layout(8, 3, ep)).total for ep in (4, 1))
    assert apart == together


@pytest.mark.parametrize("gpus", [1, 2, 3, 6, 8, 16])
@pytest.mark.parametrize("preset", ["space_large", "space_2b", "enformer"])
def test_default_layout_is_that_of_a_run(gpus, preset):
    config = build_config(preset, [])
    expected = resolve_ep_size(config.parallel, config.model, gpus)
    assert resolve_layout(config, gpus, 2, None) == Layout(gpus, 2, expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 2, None), "--gpus 0"),
        ((8, 4, None), "--zero 4"),
        ((8, -1, None), "--zero -1"),
        ((8, 2, 0), "ep_size=0"),
        ((8, 2, 3), "ep_size=3.* 4 is the largest"),
        ((8, 2, 8), "ep_size=8"),
        ((2, 2, 4), "ep_size=4"),
        ((8, 0, 2), "--zero 0 with --ep 2"),
    ],
)
def test_layouts_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        resolve_layout(build_config("space_large", []), *arguments)


def test_zero_0_defaults_to_no_expert_parallelism():
    assert resolve_layout(build_config("space_large", []), 8, 0, None).ep_size == 1

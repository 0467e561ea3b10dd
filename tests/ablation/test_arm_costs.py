"""Equal work is equal: steps times operations of a step."""

import pytest
from made_up_arms import SHAPE, options
from small_datasets import write_small_dataset

from spacescale.ablation.arms import Arm, read_arms
from spacescale.ablation.costs import cost_arms
from spacescale.errors import UserError
from spacescale.planning.flops import micro_batch_flops, training_flops

STEPS = ["optim.max_steps=4000", "optim.warmup_steps=400", "run.valid_every=500"]


def costs(tmp_path, arms, equal, *more):
    data = options(tmp_path).data
    return cost_arms(read_arms(arms), "space_demo", [*SHAPE, *STEPS, *more], data, equal)


def test_equal_flops(tmp_path):
    arms = ["full", "dense_encoder", "wide=data.micro_batch_size=48"]
    full, dense, wide = costs(tmp_path, arms, "flops")
    assert full.arm.overrides == ()
    assert dense.window_flops < full.window_flops == wide.window_flops
    work = [c.step_flops * c.config.optim.max_steps for c in (full, dense, wide)]
    assert work == pytest.approx([work[0]] * 3, rel=1e-3)
    assert wide.config.optim.max_steps == 2000
    assert (wide.config.optim.warmup_steps, wide.config.run.valid_every) == (200, 250)


def test_equal_steps_change_nothing(tmp_path):
    full, dense = costs(tmp_path, ["moe-dense"], "steps")
    assert dense.arm == Arm("dense_encoder", ("model.species_num_experts=0",))
    assert full.config.optim.max_steps == dense.config.optim.max_steps == 4000
    assert full.parameters.active < full.parameters.total


def test_an_arm_may_not_set_what_equal_flops_sets(tmp_path):
    with pytest.raises(UserError, match=r"optim.max_steps=9 is what --equal flops sets"):
        costs(tmp_path, ["full", "mine=optim.max_steps=9"], "flops")


def test_a_window_costs_what_species_cost_as_they_are_read(tmp_path):
    write_small_dataset(tmp_path / "data" / "newt", assay="cage")
    more = 'data.species_importance={"newt": 6}'
    (full,) = costs(tmp_path, ["full"], "steps", more)
    of = {
        name: training_flops(micro_batch_flops(full.config.model, {name: 1}))
        for name in ("finch", "moth", "newt")
    }
    expected = (of["finch"] + of["moth"] + 6 * of["newt"]) / 8
    assert full.window_flops == pytest.approx(expected, rel=0.01)

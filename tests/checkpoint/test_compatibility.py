"""What a run may not change when it goes on, beyond what the commands' tests ask."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from made_up_checkpoints import LAYOUT, state_of

from spacescale.bases_config import BasesConfig, with_first_steps
from spacescale.checkpoint.compatibility import check_compatible
from spacescale.config import Config, OptimConfig
from spacescale.errors import UserError
from spacescale.space_config import ModelConfig


def with_own_experts(own: dict[str, int]) -> Config:
    species = {"ant": ("DNASE",), "bee": ("CHIP",)}
    return Config(model=ModelConfig(species=species, species_num_experts=6, own_experts=own))


def test_own_experts_in_another_order_are_others():
    saved = with_own_experts({"ant": 1, "bee": 2})
    state = state_of(3, config=saved.model_dump(mode="json"))
    data: Any = SimpleNamespace(manifest_hashes={}, split_hashes={})
    check_compatible(Path("step-3"), state, saved, data, LAYOUT)
    turned = with_own_experts({"bee": 2, "ant": 1})
    with pytest.raises(UserError, match=r"step-3: model.own_experts was {'ant': 1, 'bee': 2}, is "):
        check_compatible(Path("step-3"), state, turned, data, LAYOUT)


def test_another_objective_is_refused():
    saved = with_own_experts({"bee": 1})
    state = state_of(3, config=saved.model_dump(mode="json"))
    other = saved.model_copy(update={"objective": "tokens"})
    data: Any = SimpleNamespace(manifest_hashes={}, split_hashes={})
    with pytest.raises(UserError, match="step-3: objective was profiles, is now tokens; resume"):
        check_compatible(Path("step-3"), state, other, data, LAYOUT)


def test_a_checkpoint_of_before_there_were_objectives_is_one_of_profiles():
    config = with_own_experts({"bee": 1})
    old = config.model_dump(mode="json")
    assert old.pop("objective") == "profiles"
    data: Any = SimpleNamespace(manifest_hashes={}, split_hashes={})
    check_compatible(Path("step-3"), state_of(3, config=old), config, data, LAYOUT)


def hybrid(max_steps: int, first_steps: int | None = None, **bases: Any) -> Config:
    """A complete configuration: it says in steps how long bases count alone."""
    settings = with_first_steps(BasesConfig(first_steps=first_steps, **bases), max_steps)
    optim = OptimConfig(max_steps=max_steps, warmup_steps=0)
    return Config(objective="profiles+bases", bases=settings, optim=optim)


@pytest.mark.parametrize("is_old", [False, True])
def test_more_steps_must_not_lead_back_to_bases_alone(is_old):
    saved = hybrid(30).model_dump(mode="json")
    assert saved["bases"]["first_steps"] == 10
    if is_old:  # of before they were kept: a third of its own max_steps
        del saved["bases"]["first_steps"]
    state, data = state_of(3, config=saved), SimpleNamespace(manifest_hashes={}, split_hashes={})
    with pytest.raises(UserError, match=r"in the first 10 steps, now they would in 20 .*steps=10$"):
        check_compatible(Path("step-3"), state, hybrid(60), data, LAYOUT)
    check_compatible(Path("step-3"), state, hybrid(60, first_steps=10), data, LAYOUT)


def test_more_steps_of_what_has_no_border_are_allowed():
    data: Any = SimpleNamespace(manifest_hashes={}, split_hashes={})
    for of in (
        lambda n: hybrid(n, schedule="joint"),
        lambda n: Config(optim=OptimConfig(max_steps=n)),
    ):
        state = state_of(3, config=of(6_000).model_dump(mode="json"))
        check_compatible(Path("step-3"), state, of(9_000), data, LAYOUT)

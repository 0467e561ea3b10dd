"""What `partitions.py` relies on inside DeepSpeed: an upgrade that changes it fails here.

Where ZeRO keeps a parameter's numbers is read from DeepSpeed's own book-keeping, and held here
against what DeepSpeed itself answers for the whole parameter.
"""

from pathlib import Path

import pytest
import torch
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state
from reshaping import Layout, start, train

from spacescale.checkpoint.partitions import Partitions
from spacescale.checkpoint.pieces import FIELDS, WEIGHT
from spacescale.testing.ranks import run_ranks

STAGES = (1, 2, 3)
EXPERTS = ".mixture.experts."


def look(folder: Path, zero: int) -> dict:
    """After a step: this rank's pieces, and what DeepSpeed says they are; Adam's states, and those
    that would have stood in for them before."""
    run = start(folder, Layout(2, 2, zero))
    optimizer = run.engine.optimizer.optimizer
    before = len(optimizer.state)
    train(run, 0, 1)
    if zero < 3:
        # DeepSpeed links the states in its first group's first step, before the others have any.
        run.engine.optimizer._hp_optimizer_states_linked = False
        run.engine.optimizer._lazy_init_hp_params_optimizer_state()
    partitions = Partitions(run.engine)
    found = {
        "states before": before,
        "states": [described(optimizer.state[flat]) for flat in partitions._flat_partitions()],
        "adam_step": partitions.adam_step(),
        "sizes": partitions.sizes(),
        "pieces": [
            (p.parameter, p.start, {field: t.clone() for field, t in p.fields.items()})
            for p in partitions.pieces()
        ],
        "whole": {
            name: {
                field: safe_get_full_fp32_param(parameter).flatten()
                if field == WEIGHT
                else safe_get_full_optimizer_state(parameter, field).flatten()
                for field in FIELDS
            }
            for name, parameter in run.model.named_parameters()
        },
    }
    optimizer.state.clear()
    found["fresh adam_step"] = partitions.adam_step()
    found["fresh states"] = [
        described(optimizer.state[flat]) for flat in partitions._flat_partitions()
    ]
    return found


def described(state: dict[str, torch.Tensor]) -> dict[str, tuple]:
    return {key: (t.dtype, t.shape, t.device.type) for key, t in state.items()}


def look_at_all(folder: Path) -> dict[int, dict]:
    return {zero: look(folder, zero) for zero in STAGES}


@pytest.fixture(scope="module")
def looked(tmp_path_factory):
    return run_ranks(look_at_all, 2, tmp_path_factory.mktemp("contract"))


@pytest.mark.parametrize("zero", STAGES)
def test_the_pieces_of_all_ranks_are_the_parameters_as_deepspeed_puts_them_together(looked, zero):
    ranks = [rank[zero] for rank in looked]
    for name, size in ranks[0]["sizes"].items():
        shares = [rank["whole"][name] for rank in ranks]
        for field in FIELDS:
            whole = shares[0][field]
            if EXPERTS in name:  # two experts on each rank
                whole = torch.cat([share[field] for share in shares])
            filled = torch.full((size,), float("nan"))
            for rank in ranks:
                for piece, first, fields in rank["pieces"]:
                    if piece == name:
                        stretch = filled[first : first + len(fields[field])]
                        assert stretch.isnan().all(), f"{name} is given twice"
                        stretch.copy_(fields[field])
            assert torch.equal(filled, whole), f"{field} of {name}"


@pytest.mark.parametrize("zero", STAGES)
def test_adams_state_is_empty_at_first_and_then_like_the_one_made_here(looked, zero):
    for rank in looked:
        found = rank[zero]
        assert (found["states before"], found["adam_step"], found["fresh adam_step"]) == (0, 1, 0)
        assert found["states"] == found["fresh states"]
        for state in found["states"]:
            assert state.keys() == {"step", *FIELDS} - {WEIGHT}


def test_weights_and_moments_are_split_between_ranks(looked):
    """Else the comparison above would not see a wrong offset."""
    for zero in STAGES:
        for rank in looked:
            cut = [p for p in rank[zero]["pieces"] if p[1] and EXPERTS not in p[0]]
            own = sum(len(fields[WEIGHT]) for _, _, fields in rank[zero]["pieces"])
            assert own < 0.6 * sum(rank[zero]["sizes"].values())
            assert cut or rank is looked[0]

"""One gate for all species: against a loop, in what is counted, and when species are added."""

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from tiny_models import some_codes, tiny_config, tiny_model

from spacescale.model import add_species
from spacescale.model.moe import SpeciesMoE

SHARED = {"species_gates": "shared"}
WINDOWS = torch.tensor([0, 0, 1])


def test_all_species_take_one_gate():
    torch.manual_seed(0)
    moe = SpeciesMoE(tiny_config(**SHARED))
    assert moe.shared_router.weight.shape == (1, 4, 48)
    x = torch.randn(3, 5, 48)
    routing = moe.shared_router(x, WINDOWS)
    mass = torch.zeros(2, 4)
    for window, row in enumerate(WINDOWS.tolist()):
        for token in range(5):
            logits = moe.shared_router.weight[0] @ x[window, token] + moe.shared_router.bias[0]
            best = logits.topk(2).indices
            mass[row, best] += F.leaky_relu(logits[best]).softmax(0)
            assert routing.experts[window, token].tolist() == best.tolist()
    torch.testing.assert_close(routing.sums.gate_mass, mass)
    assert routing.sums.num_items.tolist() == [2, 1]
    same = moe(x[:1].expand(2, -1, -1), torch.tensor([0, 1]))[0]
    torch.testing.assert_close(same[0], same[1])


def test_own_gates_are_what_they_were():
    """Names, shapes and initial values: the shared gate is a setting beside the published form."""
    torch.manual_seed(0)
    plain = SpeciesMoE(tiny_config())
    assert [name for name, _ in plain.named_parameters()][:2] == ["router.weight", "router.bias"]
    assert plain.router.weight.shape == (2, 4, 48)


def test_a_new_species_takes_the_gate_of_all():
    model, codes = tiny_model(**SHARED), some_codes(2)
    extended = add_species(model, "newt", ["cage"], like="finch")
    known, same = (m({"perch": codes}).prediction["perch"] for m in (model, extended))
    assert torch.equal(known, same)
    router = extended.transformer[1].moe.shared_router
    assert torch.equal(router.weight, model.transformer[1].moe.shared_router.weight)


def test_it_is_refused_with_experts_of_single_species():
    with pytest.raises(ValidationError, match="not with species_gates=shared"):
        tiny_config(**SHARED, species_num_experts=5, own_experts={"perch": 1})

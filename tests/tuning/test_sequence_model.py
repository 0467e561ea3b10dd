"""A trunk with a linear layer: what is pooled, what learns, what adapters leave behind."""

import pytest
import torch
from tiny_models import some_codes, tiny_model

from spacescale.errors import UserError
from spacescale.model.layers import BatchNorm
from spacescale.tuning.sequence_model import SequenceModel, choose_trained, merge_adapters
from spacescale.tuning.space_trunk import SpaceTrunk

CODES = some_codes(3, 61)


def model(pool="mean", layer="pointwise", **changes):
    space = tiny_model(dropout=0.2, **changes)
    torch.manual_seed(0)
    return SequenceModel(SpaceTrunk(space, "perch", layer, pool), 3)


@pytest.mark.parametrize("layer", ["pointwise", "transformer.0", "conv_tower.1", "stem"])
def test_outputs_are_those_of_pooled_features(layer):
    tuned = model("sum", layer).eval()
    features = tuned.trunk.module.embed(CODES, "perch", layer).sum(1)
    torch.testing.assert_close(tuned([CODES]), tuned.head(features))
    assert tuned([CODES[:1], CODES[1:]]).shape == (3, 3)


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_pools(pool):
    tuned = model(pool).eval()
    bins = tuned.trunk.module.embed(CODES, "perch")
    expected = bins.mean(1) if pool == "mean" else bins.max(1).values
    torch.testing.assert_close(tuned.features(CODES), expected)


@pytest.mark.parametrize("pool", ["mean", "sum", "max"])
@pytest.mark.parametrize("layer", ["pointwise", "conv_tower.0"])
def test_what_fills_a_sequence_up_is_not_pooled(pool, layer):
    tuned = model(pool, layer).eval()
    filled = torch.cat([CODES[:1, :40], torch.full((1, 24), 4, dtype=torch.uint8)], dim=1)
    filled[0, 39] = 2
    found = tuned.trunk.module.embed(filled, "perch", layer)
    kept = found[:, : 40 * found.shape[1] // 64]
    expected = {"mean": kept.mean(1), "sum": kept.sum(1), "max": kept.amax(1)}[pool]
    torch.testing.assert_close(tuned.features(filled), expected)
    unknown = torch.full((1, 64), 4, dtype=torch.uint8)
    assert tuned.features(unknown).isfinite().all()


def changed_names(tuned, mode, **options):
    """Parameters and buffers that two steps of SGD change."""
    choose_trained(tuned, mode, 2, **({"live_batchnorm": False} | options))
    before = {name: value.clone() for name, value in tuned.state_dict().items()}
    learning = [p for p in tuned.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(learning, lr=0.1)
    tuned.train()
    for _ in range(2):
        optimiser.zero_grad()
        tuned([CODES]).square().sum().backward()
        optimiser.step()
    after = tuned.state_dict()
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_the_head_alone():
    assert changed_names(model(), "head") == {"head.weight", "head.bias"}


def test_a_frozen_trunk_has_no_dropout():
    tuned = model()
    choose_trained(tuned, "head", 2, False)
    torch.testing.assert_close(tuned.train()([CODES]), tuned([CODES]))


def test_everything_but_what_features_do_not_need():
    changed = changed_names(model(), "full")
    assert not [n for n in changed if n.startswith(("space.heads", "space.decoder"))]
    assert not [n for n in changed if "running" in n or "num_batches" in n]
    assert {"space.stem.0.weight", "space.species_token.weight", "head.weight"} <= changed


@pytest.mark.parametrize(
    "mode, layer",
    [("full", "stem"), ("full", "conv_tower.0"), ("full", "transformer.0"),
     ("lora", "transformer.0"), ("lora", "pointwise")],
)  # fmt: skip
def test_what_a_layer_does_not_depend_on_is_not_trained(mode, layer):
    if mode == "lora":
        pytest.importorskip("peft")
    tuned = model(layer=layer)
    choose_trained(tuned, mode, 2, False)
    tuned.eval()([CODES]).square().sum().backward()
    learning = {name: p for name, p in tuned.named_parameters() if p.requires_grad}
    assert [name for name, p in learning.items() if p.grad is None] == []
    assert tuned.num_trained == sum(p.numel() for p in learning.values())
    behind = ("space.transformer.1.", "space.pointwise.")
    assert any(name.startswith(behind) for name in learning) == (layer == "pointwise")


def test_adapters_behind_the_layer_are_refused():
    with pytest.raises(UserError, match=r"--layer conv_tower.1: .*expected one of transformer.0, "):
        choose_trained(model(layer="conv_tower.1"), "lora", 2, False)


def test_statistics_of_batchnorm_move_where_asked_for():
    tuned = model()
    changed = changed_names(tuned, "full", live_batchnorm=True)
    layers = [n for n, m in tuned.named_modules() if isinstance(m, BatchNorm)]
    assert {f"{name}.running_mean" for name in layers} <= changed | {
        f"{n}.running_mean" for n in layers if n.startswith("space.decoder")
    }


def test_adapters_change_nothing_at_first():
    pytest.importorskip("peft")
    tuned = model().eval()
    before = tuned([CODES]).detach()
    choose_trained(tuned, "lora", 2, False)
    torch.testing.assert_close(tuned.eval()([CODES]), before)


@pytest.mark.parametrize("experts", [4, 0])
def test_adapters_learn_alone_and_merge_into_the_weights(experts):
    pytest.importorskip("peft")
    tuned = model(species_num_experts=experts)
    names = set(tuned.state_dict())
    before = tuned.eval()([CODES]).detach()
    changed = changed_names(tuned, "lora")
    assert changed and all("lora_" in name or name.startswith("head.") for name in changed)
    assert any("moe" in name for name in changed) and any("attention" in name for name in changed)
    after = tuned.eval()([CODES]).detach()
    assert (after - before).abs().max() > 1e-3
    merge_adapters(tuned)
    assert set(tuned.state_dict()) == names
    torch.testing.assert_close(tuned([CODES]), after, rtol=1e-4, atol=1e-5)

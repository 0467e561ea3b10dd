"""What must hold of any SPACE model, on drawn examples."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import SPECIES, no_ranks, some_codes, some_targets, tiny_config, tiny_model
from torch import Tensor

from spacescale.config import LossConfig
from spacescale.model import Space
from spacescale.model.losses import training_losses
from spacescale.model.space import SpaceOutput

few = settings(max_examples=15, deadline=None, derandomize=True)
THREE = {
    "finch": ("cage", "tf_chip", "cage", "dnase_atac"),
    "moth": ("histone_chip",),
    "perch": ("dnase_atac", "splicing", "cage"),
}
BATCH = {name: some_codes(1 + i, seed=i) for i, name in enumerate(THREE)}


def predictions(model: Space, batch: dict[str, Tensor]) -> SpaceOutput:
    with torch.no_grad():
        return model(batch)


def assert_same_species(found: SpaceOutput, expected: SpaceOutput, names: list[str]) -> None:
    for what in ("prediction", "enhanced", "embedding"):
        for name in names:
            torch.testing.assert_close(
                getattr(found, what)[name], getattr(expected, what)[name], rtol=1e-4, atol=1e-5
            )


@few
@given(order=st.permutations(list(THREE)))
def test_the_order_of_species_in_the_configuration_does_not_matter(order):
    model = tiny_model(species=THREE)
    other = Space(tiny_config(species={name: THREE[name] for name in order})).eval()
    rows = [list(THREE).index(name) for name in order]
    weights = {
        key: tensor[rows] if key == "species_token.weight" or ".router." in key else tensor
        for key, tensor in model.state_dict().items()
    }
    other.load_state_dict(weights)
    found, expected = predictions(other, BATCH), predictions(model, BATCH)
    assert_same_species(found, expected, list(THREE))
    for one, two in zip(found.encoder_routing, expected.encoder_routing, strict=True):
        torch.testing.assert_close(one.gate_mass, two.gate_mass[rows])
    assert found.decoder_routing is not None and expected.decoder_routing is not None
    by_species = expected.decoder_routing.gate_mass.unflatten(0, (len(THREE), -1))
    torch.testing.assert_close(found.decoder_routing.gate_mass, by_species[rows].flatten(0, 1))


@few
@given(order=st.permutations(range(len(THREE["finch"]))))
def test_permuting_tracks_permutes_their_predictions_and_nothing_else(order):
    """Any order: tracks know each other only through their profile type."""
    model = tiny_model(species=THREE)
    tracks = tuple(THREE["finch"][i] for i in order)
    other = Space(tiny_config(species=THREE | {"finch": tracks})).eval()
    weights = {
        key: tensor[list(order)] if key.startswith("heads.finch.") else tensor
        for key, tensor in model.state_dict().items()
    }
    other.load_state_dict(weights)
    found, expected = predictions(other, BATCH), predictions(model, BATCH)
    assert_same_species(found, expected, ["moth", "perch"])
    torch.testing.assert_close(
        found.prediction["finch"], expected.prediction["finch"][..., list(order)]
    )
    torch.testing.assert_close(found.embedding["finch"], expected.embedding["finch"])
    assert found.decoder_routing is not None and expected.decoder_routing is not None
    torch.testing.assert_close(found.decoder_routing.gate_mass, expected.decoder_routing.gate_mass)


@few
@given(
    names=st.sets(st.sampled_from(list(THREE)), min_size=1),
    sizes=st.lists(st.integers(1, 3), min_size=3, max_size=3),
)
def test_evaluation_does_not_depend_on_what_else_is_in_the_batch(names, sizes):
    model = tiny_model(species=THREE)
    batch = {
        name: some_codes(size, seed=size)
        for name, size in zip(THREE, sizes, strict=True)
        if name in names
    }
    together = predictions(model, batch)
    for name, codes in batch.items():
        for i in range(len(codes)):
            alone = predictions(model, {name: codes[i : i + 1]}).prediction[name][0]
            torch.testing.assert_close(together.prediction[name][i], alone, rtol=1e-4, atol=1e-5)


@few
@given(length=st.integers(1, 40), species_token=st.booleans())
def test_any_length_from_one_base_up(length, species_token):
    model = tiny_model(
        seq_length=8, target_length=1, species_token=species_token, attn_dropout=0.1
    ).train()
    output = model({"finch": some_codes(2, length)})
    assert output.prediction["finch"].shape == (2, 1, len(SPECIES["finch"]))
    losses = training_losses(output, some_targets(output), LossConfig(), no_ranks)
    torch.stack(list(losses.values())).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@few
@given(bins=st.integers(1, 12), context=st.integers(0, 3))
def test_any_number_of_bins(bins, context):
    model = tiny_model(seq_length=8 * (bins + 2 * context), target_length=bins)
    output = predictions(model, {"perch": some_codes(1, model.config.seq_length)})
    assert output.prediction["perch"].shape == (1, bins, len(SPECIES["perch"]))
    assert output.prediction["perch"].isfinite().all()


@few
@given(types=st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=9))
def test_any_set_of_profile_types(types):
    species = {"newt": tuple(types), "wren": ("z",)}
    model = tiny_model(species=species).train()
    output = model({name: some_codes(1) for name in species})
    assert output.decoder_routing is not None
    assert len(output.decoder_routing.gate_mass) == 2 * (len(set(types)) + 1)
    losses = training_losses(output, some_targets(output), LossConfig(), no_ranks)
    torch.stack(list(losses.values())).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def loss_and_gradients(model: Space, dtype: torch.dtype) -> dict[str, Tensor]:
    model = model.to(dtype).train()
    output = model(BATCH)
    targets = {name: t.to(dtype) for name, t in some_targets(output).items()}
    losses = training_losses(output, targets, LossConfig(), no_ranks)
    torch.stack(list(losses.values())).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: g.double() for name, g in (losses | gradients).items()}


@pytest.mark.parametrize("batchnorm", ["mixed", "per_species"])
def test_gradients_agree_with_float64(batchnorm):
    single = loss_and_gradients(tiny_model(species=THREE, batchnorm=batchnorm), torch.float32)
    double = loss_and_gradients(tiny_model(species=THREE, batchnorm=batchnorm), torch.float64)
    total = torch.stack([g.norm() for g in double.values()]).norm()
    for name, expected in double.items():
        error = (single[name] - expected).abs().max()
        # A bias in front of a BatchNorm has no gradient but rounding.
        assert error <= 1e-4 * expected.abs().max() or error <= 1e-6 * total, name

"""Any sequence in: short, of bases with gradients, of species without tracks, by 16-bit weights."""

import pytest
import torch
from tiny_models import some_codes, tiny_model

from spacescale.model import add_species
from spacescale.model.layers import one_hot
from spacescale.model.space import Space


def positions(model: Space, layer: str, length: int) -> int:
    """Halvings before a layer, the last position of an odd number kept."""
    kind, _, number = layer.partition(".")
    halvings = {"stem": 1, "conv_tower": int(number or 0) + 2}.get(
        kind, model.config.num_downsamples
    )
    return -(-length // 2**halvings)


@pytest.mark.parametrize("length", [1, 2, 7, 70, 300, 515])
def test_every_layer_takes_any_length(length):
    model = tiny_model(dilated_convs=3)
    codes = some_codes(2, length)
    for layer in model.layers:
        with torch.no_grad():
            found = model.embed(codes, "perch", layer)
        assert found.isfinite().all()
        assert found.shape[:2] == (2, positions(model, layer, length)), layer
    assert found.shape[2] == 2 * model.config.dim


@pytest.mark.parametrize("changes", [{}, {"species_token": False}, {"dilated_convs": 2}])
def test_the_last_layer_is_what_the_heads_see(changes):
    model = tiny_model(**changes)
    codes = some_codes(2)
    bins = model.config.target_length
    with torch.no_grad():
        uncropped = model.embed(codes, "perch")
        expected = model({"perch": codes}).embedding["perch"]
    start = (uncropped.shape[1] - bins) // 2
    torch.testing.assert_close(uncropped[:, start : start + bins], expected)


def test_species_are_embedded_apart():
    model = tiny_model()
    codes = some_codes(1)
    with torch.no_grad():
        assert not torch.allclose(model.embed(codes, "finch"), model.embed(codes, "perch"))


def test_bases_do_as_codes_do():
    model = tiny_model()
    codes = some_codes(2)
    codes[0, 5:9] = 4  # N
    bases = one_hot(codes, torch.float32)
    with torch.no_grad():
        assert torch.equal(model.embed(bases, "finch"), model.embed(codes, "finch"))
        a, b = model({"finch": codes}), model({"finch": bases})
    assert torch.equal(a.prediction["finch"], b.prediction["finch"])


def test_gradients_reach_the_bases():
    model = tiny_model(decoder="mlp", species_num_experts=0).double()
    bases = one_hot(some_codes(1), torch.float64).requires_grad_()

    def level(x: torch.Tensor) -> torch.Tensor:
        return model({"finch": x}).prediction["finch"].sum()

    (gradient,) = torch.autograd.grad(level(bases), bases)
    direction = torch.randn(bases.shape, dtype=bases.dtype, generator=torch.manual_seed(3))
    step = 1e-5 * direction
    with torch.no_grad():
        slope = (level(bases + step) - level(bases - step)) / 2e-5
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-5, atol=1e-7)


def test_a_species_without_tracks_has_features_alone():
    model = tiny_model()
    extended = add_species(model, "newt", like="perch")
    codes = some_codes(2)
    with torch.no_grad():
        torch.testing.assert_close(extended.embed(codes, "newt"), model.embed(codes, "perch"))
        after = extended({"perch": codes}).prediction["perch"]
        torch.testing.assert_close(after, model({"perch": codes}).prediction["perch"])
    with pytest.raises(ValueError, match="species 'newt' has no tracks: only `embed` takes it"):
        extended({"newt": codes})
    loss = extended({"perch": codes}).prediction["perch"].sum()
    loss.backward()
    assert not [name for name, weight in extended.named_parameters() if weight.grad is None]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("decoder", ["moe", "mlp", "none"])
def test_weights_of_16_bits_predict_nearly_the_same(dtype, decoder):
    model = tiny_model(decoder=decoder, unused_layer_norm=decoder == "moe")
    codes = some_codes(2)
    with torch.no_grad():
        expected = model({"finch": codes}).prediction["finch"]
        found = model.to(dtype)({"finch": codes}).prediction["finch"]
        assert model.embed(codes, "finch").dtype == dtype
    assert found.dtype == torch.float32
    centred = torch.stack([found.flatten(), expected.flatten()])
    assert torch.corrcoef(centred)[0, 1] > 0.98
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.1)


def test_nothing_but_the_weights_makes_the_model():
    """As of transformers 5: built on the meta device, memory uninitialised, weights loaded."""
    model = tiny_model()
    assert set(dict(model.named_buffers())) <= set(model.state_dict())
    with torch.device("meta"):
        other = Space(model.config)
    other = other.to_empty(device="cpu")
    for tensor in [*other.parameters(), *other.buffers()]:
        tensor.data.fill_(7)
    other.load_state_dict(model.state_dict())
    codes = some_codes(2)
    with torch.no_grad():
        found = other.eval()({"finch": codes}).prediction["finch"]
        assert torch.equal(found, model({"finch": codes}).prediction["finch"])


def test_what_cannot_be_embedded_is_named():
    model = tiny_model()
    codes = some_codes(1)
    with pytest.raises(ValueError, match="species 'newt': this model knows"):
        model.embed(codes, "newt")
    with pytest.raises(ValueError, match=r"layer .head.: this model has stem, conv_tower\.0"):
        model.embed(codes, "finch", "head")
    with pytest.raises(ValueError, match="0 bp"):
        model.embed(codes[:, :0], "finch")
    with pytest.raises(ValueError, match=r"sequences torch.float32 \(1, 64\): expected codes"):
        model.embed(codes.float()[:, :64], "finch")
    with pytest.raises(ValueError, match=r"no species has tracks; model\.decoder=none"):
        tiny_model(species={"newt": ()})

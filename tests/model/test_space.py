import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tiny_models import SPECIES, no_ranks, some_codes, some_targets, tiny_config, tiny_model

from spacescale.config import LossConfig
from spacescale.errors import UserError
from spacescale.model import Space, experts
from spacescale.model.exports import load_weights
from spacescale.model.layers import BatchNorm
from spacescale.model.losses import training_losses
from spacescale.parallel.sync_batchnorm import SyncBatchNorm
from spacescale.presets import RELEASED

VARIANTS = [
    pytest.param({}, id="both"),
    pytest.param({"species_num_experts": 0}, id="dense"),
    pytest.param({"own_experts": {"perch": 1}}, id="own experts"),
    pytest.param({"decoder": "none"}, id="no decoder"),
    pytest.param({"species_num_experts": 0, "decoder": "none"}, id="plain"),
    pytest.param({"decoder": "mlp"}, id="dense decoder"),
    pytest.param({"species_token": False}, id="no token"),
    pytest.param({"species_num_experts": 0, "species_token": False}, id="dense, no token"),
    pytest.param(RELEASED["model"], id="released"),
    pytest.param({"batchnorm": "per_species"}, id="per species"),
    pytest.param({"group_weights": "softmax_of_sum"}, id="softmax of sum"),
    pytest.param({"species_top_k": 1, "tracks_top_k": 1}, id="top 1"),
    pytest.param({"species_top_k": 4, "tracks_top_k": 3}, id="all experts"),
    pytest.param(
        {"species_num_experts": 1, "species_top_k": 1, "tracks_num_experts": 1, "tracks_top_k": 1},
        id="one expert",
    ),
    pytest.param({"groups_per_type": 1}, id="one group"),
    pytest.param({"dilated_convs": 3}, id="dilated"),
]


def backward(
    model: Space, codes: dict[str, torch.Tensor], on_all_ranks: dict[str, int] | None = None
) -> torch.Tensor:
    output = model(codes)
    losses = training_losses(
        output, some_targets(output), LossConfig(), no_ranks, on_all_ranks=on_all_ranks
    )
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    return total


@pytest.mark.parametrize("changes", VARIANTS)
def test_every_variant_trains_all_its_parameters(changes):
    model = tiny_model(**changes).train()
    loss = backward(model, {name: some_codes(2, seed=i) for i, name in enumerate(SPECIES)})
    assert torch.isfinite(loss)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("changes", VARIANTS)
def test_outputs_have_the_documented_shapes(changes):
    model = tiny_model(**changes)
    with torch.no_grad():
        output = model({"perch": some_codes(1), "finch": some_codes(2)})
    for name, batch in (("finch", 2), ("perch", 1)):
        assert output.prediction[name].shape == (batch, 10, len(SPECIES[name]))
        assert output.prediction[name].dtype == torch.float32
        assert output.embedding[name].shape == (batch, 10, 96)
    config = model.config
    assert set(output.enhanced) == (set() if config.decoder == "none" else set(SPECIES))
    assert (output.decoder_routing is not None) == (config.decoder == "moe")
    assert len(output.encoder_routing) == (2 if config.species_num_experts else 0)
    for sums in output.encoder_routing:
        # 16 bins and the species token, whose gate weights sum to 1
        tokens = 16.0 + config.species_token
        torch.testing.assert_close(sums.gate_mass.sum(1), torch.tensor([2 * tokens, tokens]))
    if output.decoder_routing is not None:
        tracks = torch.tensor([2.0 * len(SPECIES["finch"]), 1.0 * len(SPECIES["perch"])])
        torch.testing.assert_close(
            output.decoder_routing.gate_mass.sum(1).view(2, -1).sum(1), tracks
        )


def test_decoder_rows_are_species_major_over_sorted_types():
    model = tiny_model()
    assert model.config.profile_types == ("cage", "dnase_atac", "histone_chip", "tf_chip")
    with torch.no_grad():
        output = model({"perch": some_codes(3)})
    assert output.decoder_routing is not None
    expected = torch.tensor([0.0, 0, 0, 0, 3, 3, 3, 0])  # three windows of one track per type
    torch.testing.assert_close(output.decoder_routing.gate_mass.sum(1), expected)


def test_a_mixed_batch_equals_separate_batches():
    model = tiny_model()
    codes = {"finch": some_codes(2), "perch": some_codes(3, seed=5)}
    with torch.no_grad():
        mixed = model(codes)
        alone = {name: model({name: part}) for name, part in codes.items()}
    for name, output in alone.items():
        for what in ("prediction", "enhanced", "embedding"):
            torch.testing.assert_close(
                getattr(mixed, what)[name], getattr(output, what)[name], rtol=1e-5, atol=1e-6
            )
    for layer, sums in enumerate(mixed.encoder_routing):
        parts = [output.encoder_routing[layer] for output in alone.values()]
        added = tuple(sum(values) for values in zip(*parts, strict=True))
        torch.testing.assert_close(tuple(sums), added, rtol=1e-5, atol=1e-6)
    parts = [tuple(output.decoder_routing) for output in alone.values()]
    added = tuple(sum(values) for values in zip(*parts, strict=True))
    torch.testing.assert_close(tuple(mixed.decoder_routing), added, rtol=1e-5, atol=1e-6)


def test_the_order_of_species_in_the_batch_does_not_matter():
    model = tiny_model()
    codes = {"finch": some_codes(2), "perch": some_codes(3, seed=5)}
    with torch.no_grad():
        one, other = model(codes), model(dict(reversed(codes.items())))
    for name in codes:
        assert torch.equal(one.prediction[name], other.prediction[name])
    assert torch.equal(one.encoder_routing[1].gate_mass, other.encoder_routing[1].gate_mass)
    assert torch.equal(one.decoder_routing.gate_mass, other.decoder_routing.gate_mass)


def test_the_same_sequence_means_something_else_in_another_species():
    model = tiny_model()
    with torch.no_grad():
        output = model(dict.fromkeys(SPECIES, some_codes(1)))
    difference = output.embedding["finch"] - output.embedding["perch"]
    assert difference.abs().max() > 1e-3


def test_absent_species_heads_take_part_with_zero_gradients():
    model = tiny_model().train()
    backward(model, {"perch": some_codes(2)})
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert not model.heads["finch"].weight.grad.any() and not model.heads["finch"].bias.grad.any()
    assert model.heads["perch"].weight.grad.any()
    token = model.species_token.weight
    assert not token.grad[0].any() and token.grad[1].any()
    router = model.transformer[0].moe.router
    assert not router.weight.grad[0].any() and router.weight.grad[1].any()


def test_output_is_the_softplus_of_the_mean_of_base_and_enhancement():
    model = tiny_model()
    with torch.no_grad():
        output = model({"finch": some_codes(2)})
        base = model.heads["finch"](output.embedding["finch"])
    enhanced = torch.log(torch.expm1(output.enhanced["finch"].double())).float()
    expected = F.softplus((base + enhanced) / 2)
    torch.testing.assert_close(output.prediction["finch"], expected, rtol=1e-4, atol=1e-5)


def test_equal_experts_and_a_silent_decoder_make_the_dense_model():
    """Upcycling: the mixture starts as the feed-forward block that its experts were copied from."""
    dense = tiny_model(species_num_experts=0, decoder="none")
    moe = tiny_model(seed=1)
    weights = moe.state_dict() | {
        key: tensor for key, tensor in dense.state_dict().items() if key in moe.state_dict()
    }
    for layer, block in enumerate(dense.transformer):
        name = f"transformer.{layer}.moe.mixture.experts"
        biases = torch.cat([block.moe.input.bias, block.moe.output.bias])
        weights[f"{name}.w1"] = block.moe.input.weight.expand(4, -1, -1)
        weights[f"{name}.w2"] = block.moe.output.weight.expand(4, -1, -1)
        weights[f"{name}.w3"] = biases.expand(4, 1, -1)
    weights["decoder.experts.w2"] = torch.zeros_like(weights["decoder.experts.w2"])
    weights["decoder.experts.w3"][:, :, 20:] = 0
    moe.load_state_dict(weights)
    codes = {"finch": some_codes(2), "perch": some_codes(1, seed=5)}
    with torch.no_grad():
        found, expected = moe(codes).prediction, dense(codes).prediction
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("train", [False, True])
def test_a_window_without_any_known_base_is_finite(train):
    model = tiny_model().train(train)
    loss = backward(model, {"finch": torch.full((1, 128), 4, dtype=torch.uint8)})
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_any_length_that_covers_the_target_is_read():
    model = tiny_model()
    with torch.no_grad():
        for length in (73, 128, 201):
            output = model({"finch": some_codes(1, length)})
            assert output.prediction["finch"].shape == (1, 10, 5)
        with pytest.raises(ValueError, match="9 bins cannot be cropped to 10"):
            model({"finch": some_codes(1, 72)})


def test_bfloat16_autocast_stays_close():
    model, codes = tiny_model(), {"finch": some_codes(2), "perch": some_codes(1, seed=5)}
    with torch.no_grad():
        exact = model(codes).prediction
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = model(codes).prediction
    for name, prediction in rounded.items():
        assert prediction.dtype == torch.float32
        torch.testing.assert_close(prediction, exact[name], rtol=0.1, atol=0.1)


@pytest.mark.parametrize("bins, first", [(16, 3), (17, 3), (18, 4), (10, 0)])
def test_predicted_bins_are_the_central_ones_without_the_token_at_the_end(bins, first):
    model = tiny_model()  # of 10 bins of 8 bp
    seen = []
    model.transformer[-1].register_forward_hook(lambda _, inputs, output: seen.append(output[0]))
    with torch.no_grad():
        output = model({"finch": some_codes(2, length=8 * bins)})
        (last,) = seen
        central = last[:, first : first + 10]  # (B, 10, D)
        expected = model.pointwise_out(model.pointwise(central.transpose(1, 2)).transpose(1, 2))
    assert last.shape[1] == bins + 1
    torch.testing.assert_close(output.embedding["finch"], expected, rtol=0, atol=0)


def test_unknown_species_are_named():
    with pytest.raises(ValueError, match=r"species 'moth': this model knows \['finch', 'perch'\]"):
        tiny_model()({"finch": some_codes(1), "moth": some_codes(1)})
    with pytest.raises(ValueError, match="an empty batch"):
        tiny_model()({})
    with pytest.raises(ValueError, match=r"model\.species is empty"):
        Space(tiny_config(species={}))


@pytest.fixture
def export(tmp_path):
    model = tiny_model()
    payload = {
        "format": "spacescale-model",
        "format_version": 1,
        "model": model.config.model_dump(mode="json"),
        "track_scale": "mean",
        "trained": {"step": 3, "metrics": {}, "versions": {}, "data_manifests": {}},
    }
    (tmp_path / "config.json").write_text(json.dumps(payload))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    return tmp_path


def test_from_pretrained_restores_the_model(export):
    model, codes = Space.from_pretrained(export), {"finch": some_codes(1)}
    assert not model.training and model.config == tiny_config()
    with torch.no_grad():
        assert torch.equal(
            model(codes).prediction["finch"], tiny_model()(codes).prediction["finch"]
        )


def test_from_pretrained_names_what_is_wrong(export):
    def fails(message: str) -> None:
        with pytest.raises(UserError, match=message):
            Space.from_pretrained(export)

    config = export / "config.json"
    payload = json.loads(config.read_text())
    config.write_text(json.dumps(payload | {"format_version": 2}))
    fails(r"config\.json: format 'spacescale-model' version 2; expected .* version 1")
    config.write_text(json.dumps({"model_type": "space"}))
    fails(r"config\.json: format None version None")
    config.write_text("{")
    fails(r"config\.json: damaged: not valid JSON")
    config.unlink()
    fails(r"config\.json: no such file; expected a folder written by `spacescale convert`")
    config.write_text(json.dumps(payload))
    (export / "model.safetensors").unlink()
    fails(r"model\.safetensors: no such file")


def test_load_weights_names_the_keys_that_do_not_fit():
    model = tiny_model()
    weights = model.state_dict()
    before = {key: tensor.clone() for key, tensor in weights.items()}
    del weights["species_token.weight"]
    weights["extra"] = torch.zeros(1)
    weights["stem.0.bias"] = torch.zeros(3)
    expected = (
        r"here: missing species_token\.weight; stem\.0\.bias is \(3,\), expected \(24,\); "
        "unexpected extra"
    )
    with pytest.raises(UserError, match=expected):
        load_weights(model, weights, "here")
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    with pytest.raises(UserError, match=r"and \d+ more"):
        load_weights(model, {}, "here")


# ---- The order in which gradients arrive --------------------------------------------------------

SPLITS = [(3, 0), (0, 3), (1, 2), (2, 1)]  # windows of finch and perch that a process may hold


def order_of_arrival(model: Space, windows: tuple[int, int], autocast: bool = False) -> list[str]:
    arrived: list[str] = []
    hooks = [
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: arrived.append(name))
        for name, parameter in model.named_parameters()
    ]
    codes = {name: some_codes(3)[:count] for name, count in zip(SPECIES, windows, strict=True)}
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        backward(model, codes, dict.fromkeys(SPECIES, 3))
    for hook in hooks:
        hook.remove()
    return arrived


def split_model(**variant) -> Space:
    """Its BatchNorm takes part in those of other processes, and so may see no window itself."""
    model = tiny_model(**variant).train()
    for module in model.modules():
        if type(module) is BatchNorm:
            module.__class__ = SyncBatchNorm
    return model


@pytest.mark.parametrize("recompute", [False, True], ids=["keep", "recompute"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_arrive_in_one_order_whatever_windows_of_a_species_there_are(variant, recompute):
    stages = ("stem", "conv_tower", "transformer", "pointwise", "decoder") if recompute else ()
    model = split_model(**variant, checkpoint_stages=stages)
    found = [order_of_arrival(model, windows) for windows in SPLITS]
    assert set(found[0]) == {name for name, _ in model.named_parameters()}
    assert all(order == found[0] for order in found)


def test_experts_multiplied_at_once_and_in_turn_give_gradients_in_the_same_order(monkeypatch):
    """Where grouped products are there, a process without windows of a species takes turns."""
    size = {"seq_length": 160, "target_length": 16}  # whole multiples of 16 bytes
    expected = order_of_arrival(split_model(**size), (3, 0), autocast=True)
    grouped = []
    monkeypatch.setattr(experts, "has_grouped_product", lambda device: True)
    run = experts.StackedExperts._run_grouped
    monkeypatch.setattr(
        experts.StackedExperts, "_run_grouped", lambda *args: grouped.append(1) or run(*args)
    )
    for windows in SPLITS:
        assert order_of_arrival(split_model(**size), windows, autocast=True) == expected
    assert grouped


def test_a_batch_without_any_window_is_refused():
    with pytest.raises(ValueError, match="an empty batch"):
        tiny_model()({name: some_codes(1)[:0] for name in SPECIES})

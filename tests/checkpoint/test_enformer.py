"""The independent statement of Enformer below follows Avsec et al. 2021 and reads its own keys."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from foreign_folders import HEADS, random_weights, same_bits, write_folder
from torch import Tensor

from spacescale.checkpoint.enformer import (
    enformer_config,
    from_enformer,
    import_enformer,
    to_enformer,
    upcycle,
)
from spacescale.cli import main
from spacescale.errors import UserError
from spacescale.genome.released_grouping import released_grouping
from spacescale.model.attention import positional_basis
from spacescale.model.layers import one_hot
from spacescale.model.space import Space, meta_model
from spacescale.predict.trained_model import load_trained
from spacescale.space_config import ModelConfig

FOREIGN = {
    "use_tf_gamma": False,
    "seq_length": 128,
    "target_length": 10,
    "num_downsamples": 3,
    "dim": 48,
    "dim_divisible_by": 8,
    "depth": 2,
    "heads": 4,
    "attn_dim_key": 8,
    "output_heads": {"human": 5, "mouse": 3},
}
SPECIES = {
    "human": ("cage", "tf_chip", "cage", "dnase_atac", "tf_chip"),
    "mouse": ("dnase_atac", "histone_chip", "cage"),
}
DENSE = enformer_config(FOREIGN, SPECIES, "x")
EXPERTS = {"species_num_experts": 4, "species_top_k": 2, "tracks_num_experts": 3}
PRESET = ["space_large", "model.seq_length=128", "model.target_length=10"]
PRESET += ["model.num_downsamples=3", "model.dim=48", "model.dim_divisible_by=8"]
PRESET += ["model.depth=2", "model.heads=4", "model.attn_dim_key=8"]
TOLERANCE = 2e-6  # of the largest prediction


def batch_norm(x: Tensor, w: dict[str, Tensor], key: str) -> Tensor:
    mean, variance = w[f"{key}.running_mean"], w[f"{key}.running_var"]
    scale = w[f"{key}.weight"] / torch.sqrt(variance + 1e-5)
    return (x - mean[:, None]) * scale[:, None] + w[f"{key}.bias"][:, None]


def conv_block(x: Tensor, w: dict[str, Tensor], key: str) -> Tensor:
    x = batch_norm(x, w, f"{key}.0")
    kernel = w[f"{key}.2.weight"]
    return F.conv1d(x * torch.sigmoid(1.702 * x), kernel, w[f"{key}.2.bias"], padding="same")


def pool(x: Tensor, w: dict[str, Tensor], key: str) -> Tensor:
    pairs = x.unflatten(2, (-1, 2))
    logits = F.conv2d(pairs, w[f"{key}.to_attn_logits.weight"])
    return (pairs * logits.softmax(-1)).sum(-1)


def layer_norm(x: Tensor, w: dict[str, Tensor], key: str) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{key}.weight"], w[f"{key}.bias"])


def attention(x: Tensor, w: dict[str, Tensor], key: str, heads: int, dim_key: int) -> Tensor:
    n, dim = x.shape[1:]
    q, k, v = (
        F.linear(x, w[f"{key}.to_{name}.weight"]).unflatten(2, (heads, -1)) for name in "qkv"
    )
    q = q / math.sqrt(dim_key)
    basis = positional_basis(n, dim // heads, x.device)
    rel_k = F.linear(basis, w[f"{key}.to_rel_k.weight"]).unflatten(1, (heads, -1))
    content = torch.einsum("bihd,bjhd->bhij", q + w[f"{key}.rel_content_bias"][0, :, 0], k)
    shifted = q + w[f"{key}.rel_pos_bias"][0, :, 0]
    place = torch.arange(n)[None] - torch.arange(n)[:, None] + n - 1  # of distance j − i
    relative = torch.einsum("bihd,ijhd->bhij", shifted, rel_k[place])
    mixed = torch.einsum("bhij,bjhd->bihd", (content + relative).softmax(-1), v)
    return F.linear(mixed.flatten(2), w[f"{key}.to_out.weight"], w[f"{key}.to_out.bias"])


def enformer(w: dict[str, Tensor], codes: Tensor, species: str) -> Tensor:
    """Codes (B, L) uint8 → (B, bins, T): Enformer of the sizes of FOREIGN, in evaluation."""
    x = F.conv1d(one_hot(codes, torch.float32), w["stem.0.weight"], w["stem.0.bias"], padding=7)
    x = pool(x + conv_block(x, w, "stem.1.fn"), w, "stem.2")
    for level in range(FOREIGN["num_downsamples"] - 1):
        x = conv_block(x, w, f"conv_tower.{level}.0")
        x = pool(x + conv_block(x, w, f"conv_tower.{level}.1.fn"), w, f"conv_tower.{level}.2")
    x = x.transpose(1, 2)
    for block in range(FOREIGN["depth"]):
        key = f"transformer.{block}"
        normed = layer_norm(x, w, f"{key}.0.fn.0")
        sizes = FOREIGN["heads"], FOREIGN["attn_dim_key"]
        x = x + attention(normed, w, f"{key}.0.fn.1", *sizes)
        h = layer_norm(x, w, f"{key}.1.fn.0")
        h = F.linear(h, w[f"{key}.1.fn.1.weight"], w[f"{key}.1.fn.1.bias"]).relu()
        x = x + F.linear(h, w[f"{key}.1.fn.4.weight"], w[f"{key}.1.fn.4.bias"])
    crop = (x.shape[1] - FOREIGN["target_length"]) // 2
    x = conv_block(x[:, crop : x.shape[1] - crop].transpose(1, 2), w, "final_pointwise.1")
    x = (x * torch.sigmoid(1.702 * x)).transpose(1, 2)
    head = f"_heads.{species}.0"
    return F.softplus(F.linear(x, w[f"{head}.weight"], w[f"{head}.bias"]))


def some_codes(seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randint(0, 5, (2, FOREIGN["seq_length"]), generator=generator).byte()
        for name in SPECIES
    }


def write_enformer(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """A folder as enformer-pytorch writes it, aliases included; and the weights without them."""
    weights = to_enformer(random_weights(DENSE), DENSE)
    aliases = {"_trunk.1.0.weight": weights["stem.0.weight"]}
    return write_folder(folder, FOREIGN, weights | aliases), weights


@torch.no_grad()
def predict(model: Space, codes: dict[str, Tensor]) -> dict[str, Tensor]:
    return model.eval()(codes).prediction


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]):
    assert found.keys() == expected.keys()
    for name, prediction in expected.items():
        assert prediction.std() > 1e-3
        difference = (found[name] - prediction).abs().max() / prediction.abs().max()
        assert float(difference) <= TOLERANCE


def test_the_published_checkpoint_fits():
    species = {name: released_grouping(name) for name in HEADS}
    config = enformer_config({}, species, "x")
    theirs = to_enformer(meta_model(config).state_dict(), config)
    assert len(theirs) == 287
    parameters = {key: t for key, t in theirs.items() if "running" not in key}
    counted = sum(t.numel() for t in parameters.values() if t.is_floating_point())
    assert counted == 251_221_292
    names = json.loads((Path(__file__).with_name("data") / "released_shapes.json").read_text())
    assert sum(f"model.{key}" in names for key in theirs) == 107


def test_dense_import_keeps_every_bit_and_predicts_the_same(tmp_path):
    source, weights = write_enformer(tmp_path / "hub")
    assert import_enformer(source, tmp_path / "ours") == len(weights)
    model = Space.from_pretrained(tmp_path / "ours")
    assert model.config.species == {"human": ("other",) * 5, "mouse": ("other",) * 3}
    assert same_bits(to_enformer(model.state_dict(), model.config), weights)
    codes = some_codes()
    expected = {name: enformer(weights, part, name) for name, part in codes.items()}
    assert_close(predict(model, codes), expected)
    assert load_trained(tmp_path / "ours").scale_name == "none"


def upcycled_config(**changes) -> ModelConfig:
    return ModelConfig.model_validate(DENSE.model_dump() | EXPERTS | changes)


@pytest.mark.parametrize("decoder", ["moe", "mlp", "none"])
def test_upcycled_predicts_what_enformer_predicts(decoder):
    dense = random_weights(DENSE)
    config = upcycled_config(decoder=decoder, tracks_top_k=2)
    model = Space(config)
    model.load_state_dict(upcycle(dense, config))
    theirs = to_enformer(dense, DENSE)
    codes = some_codes()
    expected = {name: enformer(theirs, part, name) for name, part in codes.items()}
    assert_close(predict(model, codes), expected)


@pytest.mark.parametrize("decoder", ["moe", "none"])
def test_upcycled_with_token_predicts_what_the_dense_model_with_it_predicts(decoder):
    dense = random_weights(DENSE)
    config = upcycled_config(decoder=decoder, species_token=True)
    weights = upcycle(dense, config)
    model = Space(config)
    model.load_state_dict(weights)
    baseline = Space(ModelConfig.model_validate(DENSE.model_dump() | {"species_token": True}))
    baseline.load_state_dict(dense | {"species_token.weight": weights["species_token.weight"]})
    codes = some_codes()
    assert_close(predict(model, codes), predict(baseline, codes))


def test_every_expert_is_a_copy_and_the_rest_is_fresh_and_repeatable():
    dense = random_weights(DENSE)
    config = upcycled_config(decoder="moe", species_token=True)
    before = torch.get_rng_state()
    weights, again, other = (upcycle(dense, config, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert same_bits(weights, again)
    for expert in range(config.species_num_experts):
        w1 = weights["transformer.1.moe.mixture.experts.w1"][expert]
        assert torch.equal(w1, dense["transformer.1.moe.input.weight"])
    fresh = [key for key in weights if not torch.equal(weights[key], other[key])]
    assert "species_token.weight" in fresh
    assert "transformer.0.moe.router.weight" in fresh
    assert not {key for key in fresh if key in dense}


def test_an_upcycled_model_learns_in_every_part():
    config = upcycled_config(decoder="moe", species_token=True)
    model = Space(config)
    model.load_state_dict(upcycle(random_weights(DENSE), config))
    sum(p.square().mean() for p in model(some_codes()).prediction.values()).backward()
    for key in ("decoder.experts.w2", "decoder.experts.w3", "transformer.0.moe.mixture.experts.w1"):
        assert float(model.get_parameter(key).grad.abs().max()) > 0, key


def command(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["spacescale", *map(str, arguments)])
    return main()


def test_commands(tmp_path, monkeypatch, capsys):
    source, weights = write_enformer(tmp_path / "hub")
    ours, more = tmp_path / "ours", tmp_path / "more"
    arguments = ["import", source, "--from", "enformer", "--out"]
    assert command(monkeypatch, *arguments, ours) == 0
    assert command(monkeypatch, *arguments, more, "--upcycle", *PRESET) == 0
    assert f"{more}: imported {len(weights)} tensors" in capsys.readouterr().out
    model = Space.from_pretrained(more)
    assert (model.config.species_num_experts, model.config.decoder) == (4, "moe")
    changed = [*PRESET, "model.depth=3"]
    assert command(monkeypatch, *arguments, tmp_path / "x", "--upcycle", *changed) == 2
    assert "hub/config.json: depth=2; to be upcycled into depth=3" in capsys.readouterr().err


def test_misfits_are_named_and_nothing_is_written(tmp_path):
    source, weights = write_enformer(tmp_path / "hub")
    key = "transformer.0.1.fn.4.weight"
    changes = {
        f"missing {key}": {k: t for k, t in weights.items() if k != key},
        "unexpected stem.9.weight": weights | {"stem.9.weight": torch.zeros(1)},
        rf"{key} is \(2,\), expected \(48, 96\)": weights | {key: torch.zeros(2)},
    }
    for message, changed in changes.items():
        torch.save(changed, source / "pytorch_model.bin")
        with pytest.raises(UserError, match=f"hub/pytorch_model.bin: {message}"):
            import_enformer(source, tmp_path / "ours")
    (source / "config.json").write_text(json.dumps(FOREIGN | {"target_length": -1}))
    with pytest.raises(UserError, match=r"hub/config.json: target_length=-1: "):
        import_enformer(source, tmp_path / "ours")
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize(
    "said, expected",
    [({}, "feature"), ({"use_tf_gamma": True}, "feature"), ({"use_tf_gamma": False}, "position")],
)
def test_the_gamma_basis_is_that_of_the_source(tmp_path, said, expected):
    """The published weights come from TensorFlow, and their configuration does not say so."""
    source, _ = write_enformer(tmp_path / "hub")
    unsaid = {field: value for field, value in FOREIGN.items() if field != "use_tf_gamma"}
    (source / "config.json").write_text(json.dumps(unsaid | said))
    import_enformer(source, tmp_path / "ours")
    assert Space.from_pretrained(tmp_path / "ours").config.gamma_scale == expected


def test_from_enformer_names_unknown_keys():
    with pytest.raises(UserError, match="here: unexpected bird"):
        from_enformer({"bird": torch.zeros(1)}, DENSE, "here")

"""Our Space computes what the released SPACE computes (../shared/fixtures, spec/space.md).

One batch holds both species, which the reference can only do one after the other. Deviations on
purpose, and so not compared: odd crops (the reference loses a bin; tests/model/test_layers.py
states ours), batch statistics (the reference's training batches hold one species; here BatchNorm
uses its stored statistics throughout), and how the routing losses are normalised. Those of the
reference are computed here from our gates, so that they and the gradients can be compared.
"""

import json
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from reference_weights import ASSAYS, join, our_parts, our_weights, sort_types
from safetensors.torch import load_file
from torch import Tensor

from spacescale.config import LossConfig, ModelConfig
from spacescale.model import decoder as decoder_module
from spacescale.model import router as router_module
from spacescale.model.losses import poisson_loss, training_losses
from spacescale.model.router import LEAKY_SLOPE, top_k_gates
from spacescale.model.space import Space, SpaceOutput, load_weights

FIXTURES = Path(__file__).resolve().parents[3] / "shared" / "fixtures"
pytestmark = pytest.mark.skipif(
    not FIXTURES.is_dir(), reason=f"the reference's numbers are not here ({FIXTURES})"
)
SPECIES = ["human", "mouse"]
ALL = pytest.mark.parametrize("name", ["species_e4k3", "both_e8k2", "baseline"])
WITH_MOE = pytest.mark.parametrize("name", ["species_e4k3", "both_e8k2"])
WITH_DECODER = pytest.mark.parametrize("name", ["both_e8k2"])
TOLERANCE = 1e-4  # of a tensor's largest value; two runs of the reference differ by up to 1e-5


@dataclass
class Golden:
    """One fixture: the reference's numbers, and our model with its weights after one forward."""

    config: dict
    weights: dict[str, Tensor]
    inputs: dict[str, Tensor]
    expected: dict[str, Tensor]
    scalars: dict
    model: Space
    output: SpaceOutput
    seen: dict[str, list[tuple[Tensor, Tensor]]]  # input and output of each call of a submodule
    gates: list[Tensor]  # logits of each call of a gate: first the blocks, then per species
    choices: list[tuple[Tensor, Tensor]]  # the experts chosen and their weights

    def codes(self) -> dict[str, Tensor]:
        return {name: codes_of(self.inputs[f"{name}_x"]) for name in SPECIES}

    def targets(self) -> dict[str, Tensor]:
        return {name: self.inputs[f"{name}_labels"] for name in SPECIES}

    def tracks(self, species: str) -> dict[str, list[int]]:
        """Original numbers of each profile type's tracks; the reference lists ranges of an order
        of its own.
        """
        order, ranges = self.config["track_index"][species], self.config["types_index"][species]
        return {kind: order[slice(*ranges[f"{species} {kind}"])] for kind in ASSAYS}


def codes_of(one_hot: Tensor) -> Tensor:
    """(B, L, 4) one-hot with zero rows for N → (B, L) base codes."""
    return torch.where(one_hot.sum(-1) == 0, 4, one_hot.argmax(-1)).to(torch.uint8)


@cache
def golden(name: str) -> Golden:
    folder = FIXTURES / name
    fixture = json.loads((folder / "config.json").read_text())
    reference = load_file(folder / "weights.safetensors")
    found = Golden(
        config=fixture,
        weights=our_weights(reference),
        inputs=load_file(folder / "inputs.safetensors"),
        expected=load_file(folder / "expected.safetensors"),
        scalars=json.loads((folder / "expected.json").read_text())["float32"],
        model=Space(model_config(fixture)).eval(),
        output=SpaceOutput({}, {}, {}, [], None),
        seen={},
        gates=[],
        choices=[],
    )
    load_weights(found.model, found.weights, name)
    observed_forward(found)
    return found


def model_config(fixture: dict, **changes) -> ModelConfig:
    kinds = {
        name: {
            track: assay
            for kind, assay in ASSAYS.items()
            for track in fixture["track_index"][name][
                slice(*fixture["types_index"][name][f"{name} {kind}"])
            ]
        }
        for name in SPECIES
    }
    same = ("dim", "depth", "heads", "attn_dim_key", "dim_divisible_by", "num_downsamples")
    values = {field: fixture[field] for field in (*same, "target_length")} | {
        "species": {name: tuple(kinds[name][i] for i in sorted(kinds[name])) for name in SPECIES},
        "seq_length": fixture["window"],
        "species_num_experts": fixture["species_num_experts"] * ("species" in fixture["moe"]),
        "species_top_k": fixture["topk"],
        "tracks_num_experts": fixture["tracks_num_experts"] * ("tracks" in fixture["moe"]),
        "tracks_top_k": fixture["tracks_topk"],
        "groups_per_type": fixture["gates_per_type"],
        "dropout": 0.0,
        "attn_dropout": 0.0,
        "pos_dropout": 0.0,
    }
    return ModelConfig(**(values | changes))


def observed_forward(found: Golden) -> None:
    """Run both species in one batch, keeping what passes through submodules and gates."""

    def record_gate(logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        found.gates.append(logits)
        found.choices.append(top_k_gates(logits, top_k))
        return found.choices[-1]

    def recorder(name: str):
        def hook(module, inputs, output):
            first = output[0] if isinstance(output, tuple) else output
            found.seen.setdefault(name, []).append((inputs[0], first))

        return hook

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(router_module, "top_k_gates", record_gate)
        patch.setattr(decoder_module, "top_k_gates", record_gate)
        named = found.model.named_modules()
        hooks = [module.register_forward_hook(recorder(name)) for name, module in named]
        found.output = found.model(found.codes())
        for hook in hooks:
            hook.remove()


def by_species(stacked: Tensor) -> dict[str, Tensor]:
    return dict(zip(SPECIES, stacked.chunk(2), strict=True))


def leaky(logits: Tensor) -> Tensor:
    return F.leaky_relu(logits, LEAKY_SLOPE)


def assert_same(found: Tensor, expected: Tensor, what: str) -> None:
    assert found.shape == expected.shape, what
    error = float((found.detach() - expected).abs().max() / expected.abs().max())
    assert error < TOLERANCE, f"{what}: differs by {error:.1e} of the largest value"


@ALL
def test_trunk(name):
    g = golden(name)
    stages = {"stem": g.seen["stem"][0][1], "conv_tower": g.seen["conv_tower"][0][1]}
    for layer in range(g.config["depth"]):
        after_attention, block = g.seen[f"transformer.{layer}.moe"][0]
        stages |= {f"block{layer}.after_attention": after_attention, f"block{layer}": block}
    for stage, stacked in stages.items():
        for species, tensor in by_species(stacked).items():
            assert_same(tensor, g.expected[f"eval.{species}.{stage}"], f"{species} {stage}")


@ALL
def test_predictions(name):
    g = golden(name)
    for i, species in enumerate(SPECIES):
        found = {
            "embeddings": g.output.embedding[species],
            "base_pred": g.seen[f"heads.{species}"][0][1],
            "out": g.output.prediction[species],
        }
        if g.model.decoder is not None:
            found["enhanced_pred"] = g.seen["decoder"][i][1]
            assert torch.equal(g.output.enhanced[species], F.softplus(found["enhanced_pred"]))
        for what, tensor in found.items():
            assert_same(tensor, g.expected[f"eval.{species}.{what}"], f"{species} {what}")


@ALL
def test_odd_lengths(name):
    """301 bases are 38 bins after three poolings of odd lengths; either species reads them."""
    g = golden(name)
    halvings = g.config["num_downsamples"]
    codes = g.codes()["human"][:, : 37 * 2**halvings + 5]
    config = model_config(g.config, target_length=38, tracks_num_experts=0)
    model = Space(config).eval()
    kept = {key: w for key, w in g.weights.items() if not key.startswith("decoder.")}
    load_weights(model, kept, name)
    with torch.no_grad():
        output = model(dict.fromkeys(SPECIES, codes))
    for species in SPECIES:
        expected = g.expected[f"eval_short.{species}.embeddings"]
        assert_same(output.embedding[species], expected, f"{species} short embeddings")


@WITH_MOE
def test_species_gates(name):
    g = golden(name)
    for layer, sums in enumerate(g.output.encoder_routing):
        logits, chosen = by_species(g.gates[layer]), by_species(g.choices[layer][0])
        for i, species in enumerate(SPECIES):
            gate = f"eval.{species}.block{layer}"
            found = leaky(logits[species]).flatten(0, 1)
            assert_same(found, g.expected[f"{gate}.gate_logits"], gate)
            experts = chosen[species].flatten(0, 1)
            assert torch.equal(experts, g.expected[f"{gate}.topk_idx"].long()), gate
            mass = g.expected[f"eval.{species}.species_gate_sum.{layer}"]
            assert_same(sums.gate_mass[i], mass, f"{gate} gate sums")


@WITH_DECODER
def test_decoder_gates(name):
    g = golden(name)
    types = g.model.config.profile_types
    assert g.output.decoder_routing is not None
    for i, species in enumerate(SPECIES):
        call = g.config["depth"] + i
        logits, experts = leaky(g.gates[call]), g.choices[call][0]  # (B, T, G, E or K)
        for slot, (kind, tracks) in enumerate(g.tracks(species).items()):
            for group in range(2):
                gate = f"eval.{species}.tracks_gate{2 * slot + group}"
                found = logits[:, tracks, group].flatten(0, 1)
                assert_same(found, g.expected[f"{gate}.gate_logits"], gate)
                chosen = experts[:, tracks, group].flatten(0, 1)
                assert torch.equal(chosen, g.expected[f"{gate}.topk_idx"].long()), gate
            mass = g.output.decoder_routing.gate_mass[i * len(types) + types.index(ASSAYS[kind])]
            expected = g.expected[f"eval.{species}.tracks_gate_sum.{species} {kind}"]
            assert_same(mass, expected, f"{species} {kind} gate sums")


@WITH_DECODER
def test_decoder_group_weights(name):
    g = golden(name)
    for i, species in enumerate(SPECIES):
        logits = [g.seen[f"decoder.{part}"][i][1] for part in ("from_sequence", "from_species")]
        found = torch.stack(logits).unflatten(-1, (len(ASSAYS), -1)).softmax(-1).mean(0).flatten(1)
        expected = sort_types(g.expected[f"eval.{species}.tracks_weights"].T).T
        assert_same(found, expected, f"{species} group weights")


@ALL
def test_poisson_terms(name):
    g = golden(name)
    terms = training_losses(g.output, g.targets(), LossConfig(), lambda sums: sums)
    for species, target in g.targets().items():
        evaluated = float(poisson_loss(g.output.prediction[species], target).detach())
        assert evaluated == pytest.approx(g.scalars["eval.loss"][species], rel=1e-5)
        # Our terms add up to a mean over windows, the reference's to a sum over species.
        trained = len(SPECIES) * float(terms[f"poisson/{species}"].detach())
        assert trained == pytest.approx(g.scalars["train.bn_eval.loss"][species], rel=1e-5)


def released_losses(g: Golden) -> dict[str, Tensor]:
    """The reference's loss terms from our gates: its mutual information over a fixed count, its
    variation over single gates, its logit squares summed over species, types and groups.
    """
    terms = training_losses(g.output, g.targets(), LossConfig(), lambda sums: sums)
    found = {species: len(SPECIES) * terms[f"poisson/{species}"] for species in SPECIES}
    if g.output.encoder_routing:
        count = 2 * g.config["num"] * len(SPECIES)  # windows of one species × bins × 2
        masses = [sums.gate_mass / count for sums in g.output.encoder_routing]
        squares, gates = zip(*block_gates(g), strict=True)
        found["species_auxloss"] = 0.01 * sum(released_mi(mass) for mass in masses)
        found["species_zloss"] = 0.001 * sum(part.mean() for part in squares)
        found["species_cvloss"] = 0.005 * sum(variation(part) for part in gates)
    if g.output.decoder_routing is not None:
        mass = g.output.decoder_routing.gate_mass
        count = 2 * sum(g.config["output_heads"].values())
        found["tracks_auxloss"] = 0.01 * released_mi(mass / count)
        found["tracks_zloss"] = 0.001 * decoder_squares(g)
        found["tracks_cvloss"] = 0.005 * variation(mass.sum(0))
    return found


def block_gates(g: Golden) -> list[tuple[Tensor, Tensor]]:
    """Squared logits and gates (B, N, E) of each block and species."""
    found = []
    for layer in range(g.config["depth"]):
        gates = torch.zeros_like(g.gates[layer]).scatter(2, *g.choices[layer])
        found += zip(leaky(g.gates[layer]).square().chunk(2), gates.chunk(2), strict=True)
    return found


def released_mi(joint: Tensor) -> Tensor:
    rows, experts = joint.sum(1, keepdim=True) + 1e-10, joint.sum(0, keepdim=True) + 1e-10
    return -(joint * torch.log(joint / (rows * experts) + 1e-10)).sum()


def variation(x: Tensor) -> Tensor:
    return x.var() / (x.mean() ** 2 + 1e-10)


def decoder_squares(g: Golden) -> Tensor:
    total = torch.zeros(())
    for i, species in enumerate(SPECIES):
        logits = leaky(g.gates[g.config["depth"] + i])
        for tracks in g.tracks(species).values():
            total = total + sum(logits[:, tracks, j].square().mean() for j in range(2))
        for part in ("from_sequence", "from_species"):
            total = total + len(ASSAYS) * g.seen[f"decoder.{part}"][i][1].square().mean()
    return total


@ALL
def test_released_losses_follow_from_our_gates(name):
    g = golden(name)
    expected = g.scalars["train.bn_eval.loss"]
    found = released_losses(g)
    assert set(found) == set(expected) - {"total"}
    for term, value in found.items():
        assert float(value.detach()) == pytest.approx(expected[term], rel=1e-5), term


@ALL
def test_gradients_of_the_released_loss(name):
    g = golden(name)
    loss = torch.stack(list(released_losses(g).values())).sum()
    ours = dict(g.model.named_parameters())
    gradients = torch.autograd.grad(loss, list(ours.values()), retain_graph=True)
    prefix = "train.bn_eval.grad"
    norms = our_parts({key: entry["l2"] for key, entry in g.scalars[prefix].items() if entry})
    kept = {k.removeprefix(f"{prefix}."): t for k, t in g.expected.items() if k.startswith(prefix)}
    whole = our_parts(kept)  # the reference kept only small gradients whole
    assert norms.keys() == ours.keys()
    for key, gradient in zip(ours, gradients, strict=True):
        expected = math.hypot(*norms[key].values())
        assert float(gradient.norm()) == pytest.approx(expected, rel=1e-4), key
        if whole[key].keys() == norms[key].keys():
            assert_same(gradient, join(key, list(whole[key].values())), key)

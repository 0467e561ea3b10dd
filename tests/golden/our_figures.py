"""What our Space computes for a fixture, under the names that the fixture gives to its numbers.

Both species go through in one batch, which the released code does one after the other.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
import torch
import torch.nn.functional as F
from reference_fixtures import SPECIES, Reference
from torch import Tensor, nn

from spacescale.checkpoint.key_map import PROFILE_TYPES
from spacescale.checkpoint.released import from_released, to_released
from spacescale.config import LossConfig
from spacescale.model.decoder import ProfileDecoder
from spacescale.model.exports import load_weights
from spacescale.model.losses import poisson_loss, routing_losses, training_losses
from spacescale.model.router import LEAKY_SLOPE, RoutingSums
from spacescale.model.space import Space, SpaceOutput
from spacescale.presets import RELEASED

LOSS_NAMES = {
    **{f"poisson/{species}": species for species in SPECIES},
    **{
        f"{ours}_{our_term}": f"{theirs}_{their_term}"
        for ours, theirs in (("encoder", "species"), ("decoder", "tracks"))
        for our_term, their_term in (("mi", "auxloss"), ("z", "zloss"), ("cv", "cvloss"))
    },
}
# The released decoder's per-species cv is a constant 0, and its loss takes that of both together.
UNWEIGHTED = ("species_zloss", "species_cvloss", "tracks_zloss")


def our_model(reference: Reference, **changes) -> Space:
    """Space with those of the fixture's weights that the changed configuration has a place for."""
    config = reference.model_config(**changes)
    model = Space(config)
    theirs = {
        key: tensor.clone()  # they become the model's own
        for key, tensor in reference.weights.items()
        if model.decoder is not None or not key.startswith("model.tracks.")
    }
    load_weights(model, from_released(theirs, config, reference.name), reference.name)
    return model


@dataclass
class Recorder:
    """What passes through the parts of a model in one forward pass."""

    modules: dict[str, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)
    group_weights: list[Tensor] = field(default_factory=list)

    def output(self, name: str, call: int = 0) -> Tensor:
        return self.modules[name][call][1]

    def gates(self, name: str) -> list[tuple[Tensor, Tensor]]:
        """Logits after the LeakyReLU, as the released code has them, and choices of each call."""
        calls = self.modules[f"{name}.choose"]
        return [(F.leaky_relu(logits, LEAKY_SLOPE), chosen) for logits, chosen in calls]


@contextmanager
def recorded(model: Space) -> Iterator[Recorder]:
    """Keep first input and output of every submodule, and how the decoder weighs its groups."""
    seen = Recorder()

    def keep_module(name: str):
        def hook(module, inputs, output):
            first = output[0] if isinstance(output, tuple) else output
            seen.modules.setdefault(name, []).append((inputs[0], first))

        return hook

    weigh_groups = ProfileDecoder._group_weights

    def keep_group_weights(decoder: ProfileDecoder, views: Tensor) -> Tensor:
        seen.group_weights.append(weigh_groups(decoder, views))
        return seen.group_weights[-1]

    hooks = [m.register_forward_hook(keep_module(name)) for name, m in model.named_modules()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ProfileDecoder, "_group_weights", keep_group_weights)
        yield seen
    for hook in hooks:
        hook.remove()


@dataclass
class Evaluated:
    """One forward pass in evaluation mode."""

    tensors: dict[str, Tensor]
    losses: dict[str, float]  # Poisson losses of the predictions, and their sum
    unweighted: dict[str, dict[str, float]]  # species → routing losses before their weights


def evaluate(reference: Reference) -> Evaluated:
    model = our_model(reference).eval()
    with torch.no_grad(), recorded(model) as seen:
        output = model(reference.codes())
    tensors = trunk(seen, reference) | predictions(seen, output)
    tensors |= encoder_gates(seen, output)
    if reference.has("tracks"):
        tensors |= decoder_gates(seen, output, reference)
    losses = {
        name: float(poisson_loss(output.prediction[name], target))
        for name, target in reference.targets().items()
    }
    return Evaluated(
        {f"eval.{name}": tensor for name, tensor in tensors.items()},
        losses | {"total": sum(losses.values())},
        unweighted_losses(output),
    )


def by_species(stacked: Tensor) -> Iterator[tuple[str, Tensor]]:
    return zip(SPECIES, stacked.chunk(len(SPECIES)), strict=True)


def trunk(seen: Recorder, reference: Reference) -> dict[str, Tensor]:
    last_level = reference.config["num_downsamples"] - 2
    stages = {"stem": seen.output("stem"), "conv_tower": seen.output(f"conv_tower.{last_level}")}
    for layer in range(reference.config["depth"]):
        after_attention, block = seen.modules[f"transformer.{layer}.moe"][0]
        stages |= {f"block{layer}.after_attention": after_attention, f"block{layer}": block}
    return {
        f"{species}.{stage}": tensor
        for stage, stacked in stages.items()
        for species, tensor in by_species(stacked)
    }


def predictions(seen: Recorder, output: SpaceOutput) -> dict[str, Tensor]:
    tensors = {}
    for call, species in enumerate(SPECIES):
        tensors[f"{species}.embeddings"] = output.embedding[species]
        tensors[f"{species}.base_pred"] = seen.output(f"heads.{species}")
        tensors[f"{species}.out"] = output.prediction[species]
        if output.enhanced:
            tensors[f"{species}.enhanced_pred"] = seen.output("decoder", call)
    return tensors


def encoder_gates(seen: Recorder, output: SpaceOutput) -> dict[str, Tensor]:
    tensors = {}
    for layer in range(len(output.encoder_routing)):
        ((logits, chosen),) = seen.gates(f"transformer.{layer}.moe.router")
        for species, part in by_species(logits):
            tensors[f"{species}.block{layer}.gate_logits"] = part.flatten(0, 1)
        for species, part in by_species(chosen):
            tensors[f"{species}.block{layer}.topk_idx"] = part.flatten(0, 1)
        masses = output.encoder_routing[layer].gate_mass
        for species, mass in zip(SPECIES, masses, strict=True):
            tensors[f"{species}.species_gate_sum.{layer}"] = mass
    return tensors


def decoder_gates(seen: Recorder, output: SpaceOutput, reference: Reference) -> dict[str, Tensor]:
    types = reference.model_config().profile_types
    groups = reference.config["gates_per_type"]
    masses = output.decoder_routing.gate_mass.unflatten(0, (len(SPECIES), len(types)))
    tensors = {}
    for call, species in enumerate(SPECIES):
        logits, chosen = seen.gates("decoder")[call]  # (B, T, G, E or K)
        for slot, (kind, tracks) in enumerate(reference.tracks(species).items()):
            for group in range(groups):
                gate = f"{species}.tracks_gate{groups * slot + group}"
                tensors[f"{gate}.gate_logits"] = logits[:, tracks, group].flatten(0, 1)
                tensors[f"{gate}.topk_idx"] = chosen[:, tracks, group].flatten(0, 1)
            mass = masses[call, types.index(PROFILE_TYPES[kind])]
            tensors[f"{species}.tracks_gate_sum.{species} {kind}"] = mass
        in_their_order = [types.index(assay) for assay in PROFILE_TYPES.values()]
        weights = seen.group_weights[call][:, in_their_order]  # (B, P, G)
        tensors[f"{species}.tracks_weights"] = weights.flatten(1)
    return tensors


def unweighted_losses(output: SpaceOutput) -> dict[str, dict[str, float]]:
    """z and cv losses of each species alone."""
    ones = LossConfig(**RELEASED["loss"], mi_weight=1.0, z_weight=1.0, cv_weight=1.0)
    decoder = [] if output.decoder_routing is None else [output.decoder_routing]
    found = {}
    for place, species in enumerate(SPECIES):
        terms = routing_losses(
            [of_one_species(sums, place) for sums in output.encoder_routing], ones, "encoder"
        )
        terms |= routing_losses([of_one_species(sums, place) for sums in decoder], ones, "decoder")
        named = {LOSS_NAMES[name]: float(term) for name, term in terms.items()}
        found[species] = {name: named[name] for name in UNWEIGHTED if name in named}
    return found


def of_one_species(sums: RoutingSums, place: int) -> RoutingSums:
    """As if the batch held no other species: rows are species, or species × types."""

    def keep(part: Tensor) -> Tensor:
        parts = list(part.detach().chunk(len(SPECIES)))
        return torch.cat([p if i == place else torch.zeros_like(p) for i, p in enumerate(parts)])

    return RoutingSums(*(keep(part) for part in sums))


def odd_length_embeddings(reference: Reference) -> dict[str, Tensor]:
    """The human windows, cut so that most poolings meet an odd length, read as either species."""
    name = "eval_short.{}.embeddings"
    length = reference.tensors[name.format("human")].shape[1]
    bin_size = 2 ** reference.config["num_downsamples"]
    # Decoders are built for one length.
    changes = {"target_length": length, "seq_length": length * bin_size, "decoder": "none"}
    model = our_model(reference, **changes).eval()
    codes = reference.codes()["human"][:, : 37 * bin_size + 5]
    with torch.no_grad():
        output = model(dict.fromkeys(SPECIES, codes))
    return {name.format(species): tensor for species, tensor in output.embedding.items()}


@dataclass
class Trained:
    """One forward and backward pass in training mode."""

    losses: dict[str, float]
    unweighted: dict[str, dict[str, float]]  # as in Evaluated
    gradients: dict[str, Tensor]
    state: dict[str, Tensor]  # weights and running statistics after the pass


def train_once(reference: Reference, mode: str) -> Trained:
    """`mode` bn_batch: everything in training mode; bn_eval: BatchNorm with stored statistics."""
    model = our_model(reference).train()
    if mode == "bn_eval":
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.eval()
    output = model(reference.codes())
    losses = weighted_losses(output, reference)
    losses["total"].backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return Trained(
        {name: float(loss.detach()) for name, loss in losses.items()},
        unweighted_losses(output),
        to_released(gradients, model.config),
        to_released(model.state_dict(), model.config),
    )


def weighted_losses(output: SpaceOutput, reference: Reference) -> dict[str, Tensor]:
    losses = training_losses(output, reference.targets(), reference.loss_config(), lambda s: s)
    total = torch.stack(list(losses.values())).sum()
    return {LOSS_NAMES[name]: loss for name, loss in losses.items()} | {"total": total}


@contextmanager
def in_float64() -> Iterator[None]:
    """Models are built in float64, and so is the positional basis, which says float32."""
    default = torch.get_default_dtype()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "float32", torch.float64)
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(default)


def train_four_steps(reference: Reference) -> list[dict[str, float]]:
    """Losses of each step before its update, and the norm of the gradient before clipping."""
    model = our_model(reference).train()
    optimizer = torch.optim.AdamW(decay_groups(model), lr=5e-4, betas=(0.9, 0.999), eps=1e-8)
    steps = []
    for _ in range(4):
        optimizer.zero_grad()
        losses = weighted_losses(model(reference.codes()), reference)
        losses["total"].backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 0.2)
        optimizer.step()
        step = {name: float(loss.detach()) for name, loss in losses.items()}
        steps.append(step | {"grad_norm_before_clip": float(norm)})
    return steps


def decay_groups(model: Space) -> list[dict]:
    """The released training spares LayerNorm and whatever it calls a bias; w3 holds biases."""
    layer_norms = {
        f"{name}.{part}"
        for name, module in model.named_modules()
        if isinstance(module, nn.LayerNorm)
        for part, _ in module.named_parameters()
    }
    groups = {0.01: [], 0.0: []}
    for name, parameter in model.named_parameters():
        spared = name in layer_norms or "bias" in name or name.endswith("experts.w3")
        groups[0.0 if spared else 0.01].append(parameter)
    return [{"params": params, "weight_decay": decay} for decay, params in groups.items()]

"""Decoders that refine the predicted profile of each track along its bins.

Shapes: B windows of one species, N bins, T tracks, D dim, P profile types, G groups per type,
E experts. Source: paper, section 3.3, and Table 4 for the dense one.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spacescale.model.experts import StackedExperts
from spacescale.model.precision import WideLinear, at_least_float32
from spacescale.model.router import LEAKY_SLOPE, ExpertChoice, RoutingSums, gate_weights
from spacescale.space_config import ModelConfig


class LinearByType(WideLinear):
    """A Linear whose outputs belong to profile types, in blocks of equal size."""

    def __init__(self, inputs: int, num_types: int, per_type: int):
        super().__init__(inputs, num_types * per_type)
        self.num_types = num_types

    def forward(self, input: Tensor) -> Tensor:
        """(…, in) of any float → (…, P, per type).

        One product for each type, with its weights copied to the beginning of an allocation: the
        order in which a product is added up depends on its width and on where its operands begin.
        So what a type gets does not depend, to the last bit, on which other types there are.
        """
        x = at_least_float32(input)
        weights = at_least_float32(self.weight).unflatten(0, (self.num_types, -1)).unbind()
        biases = at_least_float32(self.bias).unflatten(0, (self.num_types, -1)).unbind()
        products = [F.linear(x, w.clone(), b.clone()) for w, b in zip(weights, biases, strict=True)]
        return torch.stack(products, dim=-2)


class ProfileDecoder(nn.Module):
    """Refine every track's predicted profile with a few of E experts shared by all tracks.

    Each profile type has G gates; how much each gate counts is decided per window from the
    pooled sequence features and, where there is one, the species token's final hidden state.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        bins = config.target_length
        self.choose = ExpertChoice(config.tracks_top_k)
        self.groups = config.groups_per_type
        self.num_types = len(config.profile_types)
        self.softmax_of_sum = config.group_weights == "softmax_of_sum"
        self.from_sequence = LinearByType(2 * config.dim, self.num_types, self.groups)
        self.from_species: LinearByType | None = None
        if config.species_token:
            self.from_species = LinearByType(config.dim, self.num_types, self.groups)
        self.gates = LinearByType(bins, self.num_types, self.groups * config.tracks_num_experts)
        self.type_embedding = nn.Parameter(torch.randn(self.num_types, bins))
        self.experts = StackedExperts(
            config.tracks_num_experts, bins, 2 * bins, config.dropout, out_dropout=False
        )
        # The released checkpoints hold it, and no computation uses it.
        self.layer_norm = nn.LayerNorm(bins) if config.unused_layer_norm else None

    def forward(
        self, base: Tensor, features: Tensor, species_state: Tensor | None, track_types: Tensor
    ) -> tuple[Tensor, RoutingSums]:
        """Enhance the base predictions (before softplus) of windows of one species.

        base (B, N, T), features (B, N, 2D), species_state (B, D), track_types (T,) int64.
        Returns base + Σ gate · expert (B, N, T) and routing sums with one row per profile type.
        """
        profiles = base.transpose(1, 2)  # (B, T, N)
        with torch.autocast(base.device.type, enabled=False):
            views = self._group_logits(features, species_state)  # (V, B, P, G)
            group_weights = self._group_weights(views)  # (B, P, G)
            logits = self._gate_logits(at_least_float32(profiles), track_types)  # (B, T, G, E)
            experts = self.choose(logits)  # (B, T, G, K)
            weights = gate_weights(logits, experts) * group_weights[:, track_types, :, None]
            gates = torch.zeros_like(logits).scatter(3, experts, weights).sum(2)  # (B, T, E)
            chosen = torch.zeros_like(logits, dtype=torch.bool).scatter(3, experts, True).any(2)
            sums = self._sums(gates, logits, views, track_types)
        enhanced = base + self._mix(profiles, gates, chosen).transpose(1, 2)
        if self.layer_norm is not None:  # on no profile: gradient buckets need every parameter
            none = profiles[:0].to(self.layer_norm.weight.dtype)
            enhanced = enhanced + self.layer_norm(none).sum()
        return enhanced, sums

    def _group_logits(self, features: Tensor, species_state: Tensor | None) -> Tensor:
        """What the sequence, and the species where the model knows it, say of each gate."""
        views = [self.from_sequence(at_least_float32(features).mean(1))]
        if self.from_species is not None and species_state is not None:
            views.append(self.from_species(species_state))
        return torch.stack(views)

    def _group_weights(self, views: Tensor) -> Tensor:
        """(V, B, P, G) → (B, P, G), which sum to 1 over the groups of a type."""
        return views.sum(0).softmax(-1) if self.softmax_of_sum else views.softmax(-1).mean(0)

    def _gate_logits(self, profiles: Tensor, track_types: Tensor) -> Tensor:
        """All types' gates see every profile; each track keeps those of its own type."""
        inputs = profiles + self.type_embedding[track_types]
        logits = self.gates(inputs).unflatten(-1, (self.groups, -1))  # (B, T, P, G, E)
        own = track_types[None, :, None, None, None].expand(
            logits.shape[0], -1, 1, *logits.shape[3:]
        )
        return logits.gather(2, own).squeeze(2)

    def _mix(self, profiles: Tensor, gates: Tensor, chosen: Tensor) -> Tensor:
        """Run each chosen expert once per track: (B, T, N) → (B, T, N)."""
        rows_in = profiles.flatten(0, 1)  # (B*T, N)
        # The one wait for the device: how many rows there are depends on what was chosen.
        expert, row = chosen.flatten(0, 1).t().nonzero(as_tuple=True)  # sorted by expert
        counts = chosen.sum((0, 1))
        out = self.experts(rows_in[row], counts) * gates.flatten(0, 1)[row, expert, None]
        mixed = torch.zeros_like(rows_in, dtype=out.dtype).index_add(0, row, out)
        return mixed.to(profiles.dtype).view_as(profiles)

    def _sums(
        self, gates: Tensor, logits: Tensor, views: Tensor, track_types: Tensor
    ) -> RoutingSums:
        def per_type(per_track: Tensor) -> Tensor:
            rows = per_track.new_zeros(self.num_types, *per_track.shape[1:])
            return rows.index_add(0, track_types, per_track)

        windows, num_tracks, _, num_experts = logits.shape
        profiles = windows * per_type(logits.new_ones(num_tracks))  # (P,)
        squares = F.leaky_relu(logits, LEAKY_SLOPE).square().sum((0, 3))  # (T, G)
        group_squares = views.square().sum((1, 3)).t()  # (P, V)
        num_group_logits = torch.full_like(group_squares, float(windows * self.groups))
        num_logits = num_experts * profiles[:, None].expand(-1, self.groups)
        return RoutingSums(
            gate_mass=per_type(gates.sum(0)),
            gate_spread=per_type((gates - 1 / num_experts).square().sum((0, 2))),
            num_gates=num_experts * profiles,
            logit_squares=torch.cat([per_type(squares), group_squares], dim=1),
            num_logits=torch.cat([num_logits, num_group_logits], dim=1),
            num_items=profiles,
        )


class MLPDecoder(nn.Module):
    """One dense network for every profile, as wide as the experts of a ProfileDecoder together."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        bins = config.target_length
        hidden = 2 * bins * config.tracks_num_experts
        self.input, self.output = nn.Linear(bins, hidden), nn.Linear(hidden, bins)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, base: Tensor) -> Tensor:
        """(B, N, T) base predictions before softplus → base + refinement (B, N, T)."""
        profiles = base.transpose(1, 2).to(self.input.weight.dtype)
        h = self.dropout(torch.relu(self.input(profiles)))
        return base + self.output(h).transpose(1, 2)

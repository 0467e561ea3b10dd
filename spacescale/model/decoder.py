"""The profile-grouped decoder: experts that run along the bin axis of each track.

Shapes: B windows of one species, N bins, T tracks, D dim, P profile types, G groups per type,
E experts. Source: paper, section 3.3.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spacescale.model.experts import StackedExperts
from spacescale.model.router import LEAKY_SLOPE, RoutingSums, top_k_gates


class ProfileDecoder(nn.Module):
    """Refine every track's predicted profile with a few of E experts shared by all tracks.

    Each profile type has G gates; how much each gate counts is decided per window from the
    pooled sequence features and from the species token's final hidden state.
    """

    def __init__(
        self,
        dim: int,
        target_length: int,
        num_types: int,
        groups: int,
        num_experts: int,
        top_k: int,
        dropout: float,
    ):
        super().__init__()
        self.top_k, self.groups, self.num_types = top_k, groups, num_types
        self.from_sequence = nn.Linear(2 * dim, num_types * groups)
        self.from_species = nn.Linear(dim, num_types * groups)
        self.gates = nn.Linear(target_length, num_types * groups * num_experts)
        self.type_embedding = nn.Parameter(torch.randn(num_types, target_length))
        self.experts = StackedExperts(
            num_experts, target_length, 2 * target_length, dropout, out_dropout=False
        )

    def forward(
        self, base: Tensor, features: Tensor, species_state: Tensor, track_types: Tensor
    ) -> tuple[Tensor, RoutingSums]:
        """Enhance the base predictions (before softplus) of windows of one species.

        base (B, N, T), features (B, N, 2D), species_state (B, D), track_types (T,) int64.
        Returns base + Σ gate · expert (B, N, T) and routing sums with one row per profile type.
        """
        profiles = base.transpose(1, 2)  # (B, T, N)
        with torch.autocast(base.device.type, enabled=False):
            group_logits = torch.stack(
                [
                    self.from_sequence(features.float().mean(1)),
                    self.from_species(species_state.float()),
                ]
            ).unflatten(-1, (self.num_types, self.groups))  # (2, B, P, G)
            group_weights = group_logits.softmax(-1).mean(0)  # (B, P, G)
            logits = self._gate_logits(profiles.float(), track_types)  # (B, T, G, E)
            experts, weights = top_k_gates(logits, self.top_k)  # (B, T, G, K)
            weights = weights * group_weights[:, track_types, :, None]
            per_group = torch.zeros_like(logits).scatter(3, experts, weights)
            gates = per_group.sum(2)  # (B, T, E)
            chosen = torch.zeros_like(logits, dtype=torch.bool).scatter(3, experts, True).any(2)
            sums = self._sums(gates, logits, group_logits, track_types)
        return base + self._mix(profiles, gates, chosen).transpose(1, 2), sums

    def _gate_logits(self, profiles: Tensor, track_types: Tensor) -> Tensor:
        """All types' gates see every profile; each track keeps those of its own type."""
        inputs = profiles + self.type_embedding[track_types]
        logits = self.gates(inputs).unflatten(-1, (self.num_types, self.groups, -1))
        own = track_types[None, :, None, None, None].expand(
            logits.shape[0], -1, 1, *logits.shape[3:]
        )
        return logits.gather(2, own).squeeze(2)

    def _mix(self, profiles: Tensor, gates: Tensor, chosen: Tensor) -> Tensor:
        """Run each chosen expert once per track: (B, T, N) → (B, T, N)."""
        rows_in = profiles.flatten(0, 1)  # (B*T, N)
        expert, row = chosen.flatten(0, 1).t().nonzero(as_tuple=True)  # sorted by expert
        counts = torch.bincount(expert, minlength=gates.shape[-1]).tolist()
        out = self.experts(rows_in[row], counts).float() * gates.flatten(0, 1)[row, expert, None]
        mixed = torch.zeros_like(rows_in, dtype=torch.float32).index_add(0, row, out)
        return mixed.to(profiles.dtype).view_as(profiles)

    def _sums(
        self, gates: Tensor, logits: Tensor, group_logits: Tensor, track_types: Tensor
    ) -> RoutingSums:
        per_track = gates.sum(0)  # (T, E)
        squares = F.leaky_relu(logits, LEAKY_SLOPE).square().sum() + group_logits.square().sum()
        return RoutingSums(
            gate_mass=gates.new_zeros(self.num_types, gates.shape[-1]).index_add(
                0, track_types, per_track
            ),
            logit_squares=squares,
            num_logits=gates.new_tensor(float(logits.numel() + group_logits.numel())),
        )

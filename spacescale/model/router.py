"""Gates that choose experts, and the sums from which their losses are computed.

Shapes: B batch, N tokens, D dim, E experts, K top-k, S species.
Routing statistics are returned as plain sums, so that adding them over ranks or micro-batches
gives those of the whole.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAKY_SLOPE = 0.01


class RoutingSums(NamedTuple):
    """Addable routing statistics of one MoE layer, float32, differentiable."""

    gate_mass: Tensor  # (rows, E): gate weight per expert; a row is a species or species × type
    logit_squares: Tensor  # (): sum of squared gate logits
    num_logits: Tensor  # (): how many logits


class Routing(NamedTuple):
    """Where each token goes."""

    experts: Tensor  # (B, N, K) int64, descending by logit
    weights: Tensor  # (B, N, K) float32, sum 1
    sums: RoutingSums


def top_k_gates(logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Choose the top-k experts of (…, E) logits; weights are the softmax over the chosen.

    Returns indices (…, K) and weights (…, K). The choice is made before the LeakyReLU, which is
    monotone: its small slope would only squeeze negative logits together.
    """
    top, experts = logits.topk(top_k, dim=-1)
    return experts, F.leaky_relu(top, LEAKY_SLOPE).softmax(dim=-1)


class SpeciesRouter(nn.Module):
    """One linear gate per species, stacked, so that all take part on every rank."""

    def __init__(self, dim: int, num_species: int, num_experts: int, top_k: int):
        super().__init__()
        self.top_k, self.num_species = top_k, num_species
        bound = dim**-0.5  # nn.Linear's initial range
        self.weight = nn.Parameter(
            torch.empty(num_species, num_experts, dim).uniform_(-bound, bound)
        )
        self.bias = nn.Parameter(torch.empty(num_species, num_experts).uniform_(-bound, bound))

    def forward(self, x: Tensor, species: Tensor) -> Routing:
        """Route the residual stream (B, N, D) of windows of species (B,) int64, in float32."""
        with torch.autocast(x.device.type, enabled=False):
            logits = torch.baddbmm(
                self.bias[species][:, None].float(),
                x.float(),
                self.weight[species].float().transpose(1, 2),
            )  # (B, N, E)
            experts, weights = top_k_gates(logits, self.top_k)
            return Routing(experts, weights, self._sums(logits, experts, weights, species))

    def _sums(
        self, logits: Tensor, experts: Tensor, weights: Tensor, species: Tensor
    ) -> RoutingSums:
        num_experts = logits.shape[-1]
        gates = torch.zeros_like(logits).scatter(2, experts, weights).sum(1)  # (B, E)
        mass = logits.new_zeros(self.num_species, num_experts).index_add(0, species, gates)
        return RoutingSums(
            gate_mass=mass,
            logit_squares=F.leaky_relu(logits, LEAKY_SLOPE).square().sum(),
            num_logits=logits.new_tensor(float(logits.numel())),
        )

"""The cross-species mixture of experts of each transformer block (paper, section 3.2).

Shapes: B batch, N tokens, D dim, E experts, K top-k, R = B·N·K routed rows.
Router, experts and the exchange of rows are kept apart: expert parallelism replaces
`RoutedExperts` and nothing else.
"""

import torch
from torch import Tensor, nn

from spacescale.model.experts import StackedExperts
from spacescale.model.router import RoutingSums, SpeciesRouter
from spacescale.space_config import ModelConfig


class RoutedExperts(nn.Module):
    """All experts in this process: sort rows by expert, run, add back with the gate weights."""

    def __init__(self, experts: StackedExperts):
        super().__init__()
        self.experts = experts

    def forward(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """Tokens (T, D), chosen experts (T, K), gate weights (T, K) → weighted sum (T, D)."""
        rows, order, counts = sort_by_expert(x, chosen, self.experts.num_experts)
        return combine(self.experts(rows, counts), order, weights, x)


def sort_by_expert(x: Tensor, chosen: Tensor, num_experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """Repeat each token for its K experts and sort the rows by expert.

    x (T, D), chosen (T, K). Returns rows (T·K, D), the order (T·K,) such that row i serves entry
    order[i] of the flattened `chosen`, and the rows per expert (E,) int64, on the same device.
    """
    flat = chosen.flatten()
    order = torch.argsort(flat, stable=True)
    # torch.bincount would wait for a GPU to tell how many bins there are.
    counts = (flat[:, None] == torch.arange(num_experts, device=flat.device)).sum(0)
    return x[order // chosen.shape[1]], order, counts


def combine(rows: Tensor, order: Tensor, weights: Tensor, like: Tensor) -> Tensor:
    """Undo `sort_by_expert`: add the weighted expert rows (T·K, D) to their tokens (T, D)."""
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    by_token = rows.index_select(0, place).view(*weights.shape, -1)  # (T, K, D)
    # The product, float32 by the weights, is not kept for the backward pass; index_add keeps it.
    return (by_token * weights[..., None]).sum(1).to(like.dtype)


class SpeciesMoE(nn.Module):
    """x + Σ gate · expert(LayerNorm(x)); the gate, its species' or that of all, sees x itself."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        dim, num_experts = config.dim, config.species_num_experts
        self.shares_gate = config.species_gates == "shared"
        # Two names: what is called `router` has rows of species, of which new ones get more.
        if self.shares_gate:
            self.shared_router = SpeciesRouter(config)
        else:
            self.router = SpeciesRouter(config)
        self.norm = nn.LayerNorm(dim)
        self.mixture = RoutedExperts(
            StackedExperts(num_experts, dim, 2 * dim, config.dropout, out_dropout=True)
        )

    def forward(self, x: Tensor, species: Tensor) -> tuple[Tensor, RoutingSums]:
        """(B, N, D) of windows of species (B,) → (B, N, D) and the routing sums."""
        routing = (self.shared_router if self.shares_gate else self.router)(x, species)
        out = self.mixture(
            self.norm(x).flatten(0, 1), routing.experts.flatten(0, 1), routing.weights.flatten(0, 1)
        )
        return x + out.view_as(x), routing.sums


class DenseFeedForward(nn.Module):
    """The plain feed-forward block: x + FFN(LayerNorm(x)), no routing."""

    def __init__(self, dim: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.input = nn.Linear(dim, 2 * dim)
        self.output = nn.Linear(2 * dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, species: Tensor) -> tuple[Tensor, None]:
        """(B, N, D) → (B, N, D); `species` is not used."""
        h = self.dropout(torch.relu(self.input(self.norm(x))))
        return x + self.dropout(self.output(h)), None

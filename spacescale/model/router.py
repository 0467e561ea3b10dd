"""Gates that choose experts, and the sums from which their losses are computed.

Shapes: B batch, N tokens, D dim, E experts, K top-k, S species.
Routing statistics are returned as plain sums, so that adding them over ranks or micro-batches
gives those of the whole.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spacescale.model.precision import at_least_float32
from spacescale.space_config import ModelConfig

LEAKY_SLOPE = 0.01


class RoutingSums(NamedTuple):
    """Addable routing statistics of one MoE layer, float32, differentiable.

    A row is a species, in the decoder a species × profile type. A kind is one set of logits: the
    encoder has one, the decoder one per gate of a type and those that weigh its gates. Where a row
    may choose some of the experts alone, E of its counts and of 1/E is their number.
    """

    gate_mass: Tensor  # (rows, E): gate weight per expert
    gate_spread: Tensor  # (rows,): sum of (gate weight − 1/E)², of which 1/E is the exact mean
    num_gates: Tensor  # (rows,): how many gate weights, zeros included
    logit_squares: Tensor  # (rows, kinds): sum of squared gate logits
    num_logits: Tensor  # (rows, kinds): how many logits
    num_items: Tensor  # (rows,): windows; in the decoder, profiles (window × track)


class Routing(NamedTuple):
    """Where each token goes."""

    experts: Tensor  # (B, N, K) int64, descending by logit
    weights: Tensor  # (B, N, K) float32, sum 1
    sums: RoutingSums


class ExpertChoice(nn.Module):
    """Chooses the top-k of E experts. A module, so that hooks can see its choice and replace it."""

    def __init__(self, top_k: int):
        super().__init__()
        self.top_k = top_k

    def forward(self, logits: Tensor) -> Tensor:
        """Logits (…, E) → experts (…, K) int64, descending by logit.

        These are the logits before the LeakyReLU, which is monotone: its small slope would only
        squeeze negative ones together.
        """
        return logits.topk(self.top_k, dim=-1).indices


def gate_weights(logits: Tensor, experts: Tensor) -> Tensor:
    """Logits (…, E) and the chosen experts (…, K) → their weights (…, K), a softmax over them."""
    return F.leaky_relu(logits.gather(-1, experts), LEAKY_SLOPE).softmax(dim=-1)


def shift_zero_gates(experts: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Misroute as the released code does where a chosen weight (T, K) underflows to exactly 0.

    It leaves such entries out of its list and then counts K entries per token, so every later
    token gets experts chosen for others; the last tokens get none.
    """
    order = torch.argsort((weights == 0).flatten().int(), stable=True)
    return experts.flatten()[order].view_as(experts), weights.flatten()[order].view_as(weights)


class SpeciesRouter(nn.Module):
    """One linear gate per species, stacked, so that all take part on every rank.

    With `species_gates=shared` there is one for all species, and sums are still kept of each.
    The first experts are shared, the last ones those of single species (`own_experts`). Logits of
    what a species may not choose are −inf, and no sum or gradient sees them.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.choose = ExpertChoice(config.species_top_k)
        self.num_species = len(config.species)
        self.released_zero_gates = config.zero_gates == "released"
        self.num_shared = config.num_shared_experts
        names = list(config.species)
        self.own = [(names.index(name), count) for name, count in config.own_experts.items()]
        self.shares_gate = config.species_gates == "shared"
        shape = (1 if self.shares_gate else self.num_species, config.species_num_experts)
        bound = config.dim**-0.5  # nn.Linear's initial range
        self.weight = nn.Parameter(torch.empty(*shape, config.dim).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))

    def forward(self, x: Tensor, species: Tensor) -> Routing:
        """Route the residual stream (B, N, D) of windows of species (B,) int64, in float32."""
        with torch.autocast(x.device.type, enabled=False):
            logits = self._logits(x, species)  # (B, N, E)
            experts = self.choose(logits)
            weights = gate_weights(logits, experts)
            sums = self._sums(logits, experts, weights, species)
        if self.released_zero_gates:
            experts, weights = self._shift_each_species(experts, weights, species)
        return Routing(experts, weights, sums)

    def _logits(self, x: Tensor, species: Tensor) -> Tensor:
        """(B, N, D) → (B, N, E).

        One product for the shared experts and one for each species' own: the order in which a
        product is added up depends on its width, and what a species gets must not depend, to the
        last bit, on which others have experts of their own.
        """
        if self.shares_gate:
            return self._product(x, torch.zeros_like(species), self.weight, self.bias)
        if not self.own:
            return self._product(x, species, self.weight, self.bias)
        widths = [self.num_shared, *(count for _, count in self.own)]
        gates = zip(self.weight.split(widths, 1), self.bias.split(widths, 1), strict=True)
        logits = torch.cat([self._product(x, species, *gate) for gate in gates], dim=-1)
        return logits.masked_fill(~self._may_choose(species)[:, None], -torch.inf)

    def _product(self, x: Tensor, species: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """(B, N, D) and gates (S, e, D), (S, e) → (B, N, e)."""
        return torch.baddbmm(
            at_least_float32(bias[species][:, None]),
            at_least_float32(x),
            at_least_float32(weight[species]).transpose(1, 2),
        )

    def _may_choose(self, species: Tensor) -> Tensor:
        """Which experts windows of species (B,) may choose: bool (B, E)."""
        shared = species.new_ones((len(species), self.num_shared), dtype=torch.bool)
        own = [(species == place)[:, None].expand(-1, count) for place, count in self.own]
        return torch.cat([shared, *own], dim=1)

    def _shift_each_species(
        self, experts: Tensor, weights: Tensor, species: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The windows of a species stand together, and the released code sees them alone."""
        sizes = torch.bincount(species, minlength=self.num_species)
        sizes = [size for size in sizes.tolist() if size]
        shifted = [
            shift_zero_gates(e, w)
            for e, w in zip(experts.split(sizes), weights.split(sizes), strict=True)
        ]
        return torch.cat([e for e, _ in shifted]), torch.cat([w for _, w in shifted])

    def _sums(
        self, logits: Tensor, experts: Tensor, weights: Tensor, species: Tensor
    ) -> RoutingSums:
        def per_species(per_window: Tensor) -> Tensor:
            rows = per_window.new_zeros(self.num_species, *per_window.shape[1:])
            return rows.index_add(0, species, per_window)

        gates = torch.zeros_like(logits).scatter(2, experts, weights)  # (B, N, E)
        windows = per_species(logits.new_ones(len(logits)))
        if self.own:
            may = self._may_choose(species)[:, None]  # (B, 1, E)
            choices = may.sum(2).to(logits.dtype)  # (B, 1)
            from_mean = (gates - 1 / choices[..., None]).masked_fill(~may, 0.0)
            logits = logits.masked_fill(~may, 0.0)
            num_gates = float(logits.shape[1]) * per_species(choices[:, 0])
        else:
            from_mean = gates - 1 / gates.shape[-1]
            num_gates = float(logits[0].numel()) * windows
        squares = F.leaky_relu(logits, LEAKY_SLOPE).square().sum((1, 2))
        return RoutingSums(
            gate_mass=per_species(gates.sum(1)),
            gate_spread=per_species(from_mean.square().sum((1, 2))),
            num_gates=num_gates,
            logit_squares=per_species(squares)[:, None],
            num_logits=num_gates[:, None],
            num_items=windows,
        )

"""How many processes share one set of experts."""

from __future__ import annotations

import math

from spacescale.config import AnyModel, ParallelConfig
from spacescale.errors import UserError
from spacescale.space_config import ModelConfig


def resolve_ep_size(parallel: ParallelConfig, model: AnyModel, world: int) -> int:
    """Processes per set of experts; UserError where the asked-for size cannot divide the work."""
    if not isinstance(model, ModelConfig) or not model.species_num_experts:
        if parallel.ep_size not in ("auto", 1):
            raise UserError(
                f"parallel.ep_size={parallel.ep_size}, but the model has no species experts"
            )
        return 1
    shared = math.gcd(world, model.species_num_experts)
    if parallel.ep_size == "auto":
        return max(n for n in range(1, parallel.max_ep_size + 1) if shared % n == 0)
    if parallel.ep_size < 1 or shared % parallel.ep_size:
        raise UserError(
            f"parallel.ep_size={parallel.ep_size} must divide both the number of processes "
            f"({world}) and model.species_num_experts ({model.species_num_experts}); "
            f"{shared} is the largest that does"
            + _own_experts_that_fit(parallel.ep_size, model, world)
        )
    return parallel.ep_size


def _own_experts_that_fit(ep_size: int, model: ModelConfig, world: int) -> str:
    """How many own experts the last species would need, where they are what does not divide."""
    if not model.own_experts or ep_size < 1 or world % ep_size:
        return ""
    missing = -model.species_num_experts % ep_size
    name, count = list(model.own_experts.items())[-1]
    return f"; or give {name} {count + missing} own experts (--own-experts), not {count}"

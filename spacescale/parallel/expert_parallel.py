"""Expert parallelism: each process holds a share of every block's experts.

Rows travel to the process of their expert and back by two uneven all-to-alls; nothing is padded
and nothing is dropped. The layer subclasses DeepSpeed's AutoEPMoELayer for its engine contract
alone (expert-data-parallel gradient groups, ZeRO partitioning), not for its router or experts.

Shapes: T tokens, K top-k, E experts, L local experts, D dim.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from deepspeed.checkpoint.autoep_affine import (
    autoep_experts_for_rank,
    autoep_placement_to_affine_map,
    legacy_uniform_autoep_placement_descriptor,
)
from deepspeed.checkpoint.constants import (
    AFFINE_MAP,
    AUTOEP_EXPERT_PLACEMENT,
    AUTOEP_PARAM_EP_RANK,
    AUTOEP_PARAM_LOCAL_EXPERTS,
    AUTOEP_PARAM_LOGICAL_SHAPE,
    DS_AUTOEP_UC_META,
)
from deepspeed.module_inject.auto_ep_layer import AutoEPMoELayer
from torch import Tensor, nn

from spacescale.model.experts import StackedExperts
from spacescale.model.moe import RoutedExperts, combine, sort_by_expert
from spacescale.parallel.comm import all_to_all, rank


class ExpertParallelExperts(AutoEPMoELayer):
    """`RoutedExperts` spread over `ep_size` processes; same parameters, same results."""

    def __init__(self, experts: StackedExperts, ep_size: int):
        """Keep this rank's slice of `experts`, which must hold all of them."""
        nn.Module.__init__(self)  # AutoEPMoELayer's own __init__ converts Hugging Face layers
        self.num_experts = experts.num_experts
        self.ep_size, self.ep_rank = ep_size, rank() % ep_size
        self.num_local_experts = self.num_experts // ep_size
        self.ep_group_name = f"ep_size_{ep_size}"
        # Bound by the engine through set_deepspeed_parallelism.
        self.ep_group = self.tp_group = self.folding_group_handles = None
        self.comm_backend, self.combine_impl = "comm", "weighted_sum"
        self.expert_placement_descriptor = legacy_uniform_autoep_placement_descriptor(
            self.num_experts, self.num_local_experts, ep_size
        )
        self.experts = experts
        self._keep_local_experts()

    def _keep_local_experts(self) -> None:
        first = self.ep_rank * self.num_local_experts
        for name, full in list(self.experts.named_parameters()):
            local = nn.Parameter(full.detach()[first : first + self.num_local_experts].clone())
            self._tag_for_engine(local)
            setattr(self.experts, name, local)

    def _tag_for_engine(self, parameter: nn.Parameter) -> None:
        """Mark a local expert tensor as DeepSpeed's engine and checkpoints expect it."""
        placement = self.expert_placement_descriptor
        full_shape = [self.num_experts, *parameter.shape[1:]]
        tags = {
            "allreduce": False,
            "group_name": self.ep_group_name,
            "ds_zero_placement_family": "autoep_expert",
            "ds_zero_partition_group_name": self.ep_group_name,
            DS_AUTOEP_UC_META: {
                AUTOEP_EXPERT_PLACEMENT: placement,
                AFFINE_MAP: autoep_placement_to_affine_map(placement, full_shape).to_dict(),
                AUTOEP_PARAM_LOGICAL_SHAPE: full_shape,
                AUTOEP_PARAM_EP_RANK: self.ep_rank,
                AUTOEP_PARAM_LOCAL_EXPERTS: list(autoep_experts_for_rank(placement, self.ep_rank)),
            },
        }
        for name, value in tags.items():
            setattr(parameter, name, value)

    def forward(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Tokens (T, D), chosen experts (T, K), gate weights (T, K) → weighted sum (T, D)."""
        rows, order, counts = sort_by_expert(x, chosen, self.num_experts)
        run = self.experts if self.ep_size == 1 else self._run_remotely
        return combine(run(rows, counts), order, weights, x)

    def _run_remotely(self, rows: Tensor, counts: Tensor) -> Tensor:
        """Send rows (sorted by global expert) to their experts' ranks and bring results back."""
        received_counts = torch.empty_like(counts)  # (ep_size, L) flattened, by sending rank
        dist.all_to_all_single(received_counts, counts, group=self.ep_group)
        both = torch.stack([counts, received_counts]).view(2, self.ep_size, -1)
        sent, received = both.tolist()  # one wait for the device
        send, receive = [sum(each) for each in sent], [sum(each) for each in received]
        local = swap_blocks(all_to_all(rows, send, receive, self.ep_group), received)
        by_expert = list(zip(*received, strict=True))
        out = self.experts(local, torch.tensor([sum(each) for each in by_expert]))
        return all_to_all(swap_blocks(out, by_expert), receive, send, self.ep_group)


def swap_blocks(rows: Tensor, sizes: Sequence[Sequence[int]]) -> Tensor:
    """Reorder consecutive blocks of `sizes[a][b]` rows, which lie by (a, b), to lie by (b, a)."""
    if len(sizes) == 1 or len(sizes[0]) == 1:
        return rows
    blocks = iter(rows.split([size for of_a in sizes for size in of_a]))
    by_a = [[next(blocks) for _ in of_a] for of_a in sizes]
    return torch.cat([block for of_b in zip(*by_a, strict=True) for block in of_b])


def rows_here(parameter: nn.Parameter, rows: Tensor) -> Tensor:
    """Of a value for each row of the plain model's tensor (R, …), those that this rank holds."""
    placed = getattr(parameter, DS_AUTOEP_UC_META, None)
    return rows if placed is None else rows[placed[AUTOEP_PARAM_LOCAL_EXPERTS]]


def distribute_experts(model: nn.Module, ep_size: int) -> None:
    """Replace every `RoutedExperts` in `model` by its expert-parallel form, in place.

    All ranks must hold the same weights beforehand: each keeps its slice of them.
    """
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, RoutedExperts):
                setattr(module, name, ExpertParallelExperts(child.experts, ep_size))

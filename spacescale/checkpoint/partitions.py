"""The engine's share of parameters and optimiser state, as pieces of the plain model's.

ZeRO joins a group's parameters end to end and gives every rank a stretch of that; expert
parallelism has already given it a slice of the experts. Here is all that is known of DeepSpeed's
own book-keeping for it; tests/checkpoint/test_deepspeed_contract.py holds it against DeepSpeed.

Frozen parameters are in no group. ZeRO-3 shares them out all the same; under ZeRO-1 and 2 every
rank holds them whole, and each of those that hold the same numbers saves an equal share.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spacescale.checkpoint.pieces import FIELDS, WEIGHT, Piece, StoredPieces
from spacescale.parallel import comm
from spacescale.parallel.engine import Engine
from spacescale.parallel.expert_parallel import ExpertParallelExperts


class _Stretch(NamedTuple):
    """`size` numbers of a parameter from `start` on, which lie at `offset` in a flat partition."""

    flat: Tensor
    offset: int
    start: int
    size: int


class Partitions:
    """This rank's partitions of weights and Adam's moments, under ZeRO-1, 2 or 3."""

    def __init__(self, engine: Engine):
        self.model: Any = engine.module  # typed as a module or a tensor
        self.zero: Any = engine.optimizer
        self.shards_weights = engine.zero_optimization_stage() == 3
        self.expert_slices = {
            parameter: (module.ep_rank, module.ep_size)
            for module in self.model.modules()
            if isinstance(module, ExpertParallelExperts)
            for parameter in module.experts.parameters()
        }

    def sizes(self) -> dict[str, int]:
        """How many numbers each parameter of the plain model has."""
        return {
            name: _numel(parameter) * self._expert_slice(parameter)[1]
            for name, parameter in self.model.named_parameters()
        }

    def trained(self) -> set[str]:
        """The parameters that are not frozen."""
        return {name for name, p in self.model.named_parameters() if p.requires_grad}

    def pieces(self) -> Iterator[Piece]:
        """What this rank owns. The tensors are the optimiser's own: writing to them changes it.

        Those of frozen parameters hold a weight alone.
        """
        for name, parameter, own in self._owned():
            first = self._expert_slice(parameter)[0] * _numel(parameter)
            state = {WEIGHT: own.flat.detach()}
            if parameter.requires_grad:
                state |= self._adam(own.flat)
            fields = {f: state[f].narrow(0, own.offset, own.size) for f in FIELDS if f in state}
            yield Piece(name, first + own.start, fields)

    def num_owned(self) -> int:
        """How many numbers this rank's pieces hold, all fields together."""
        return sum(
            own.size * (len(FIELDS) if parameter.requires_grad else 1)
            for _, parameter, own in self._owned()
        )

    def _owned(self) -> Iterator[tuple[str, nn.Parameter, _Stretch]]:
        """The parameters of which this rank owns numbers, and where those are."""
        locate = self._locate_sharded if self.shards_weights else self._locate
        for name, parameter in self.model.named_parameters():
            own = locate(parameter) if parameter.requires_grad else self._locate_frozen(parameter)
            if own is not None and own.size > 0:
                yield name, parameter, own

    def _expert_slice(self, parameter: nn.Parameter) -> tuple[int, int]:
        """Which of how many equal slices of the plain model's tensor this parameter is."""
        return self.expert_slices.get(parameter, (0, 1))

    def _locate(self, parameter: nn.Parameter) -> _Stretch | None:
        """What this rank owns of a parameter; None where all of it is other ranks'."""
        mapping: Any = parameter._hp_mapping  # pyright: ignore[reportAttributeAccessIssue]
        if mapping is None:
            return None
        flat = self.zero.single_partition_of_fp32_groups[mapping.param_group_index]
        here, there = mapping.hp_fragment_address, mapping.lp_fragment_address
        return _Stretch(flat, here.start, there.start, here.numel)

    def _locate_sharded(self, parameter: nn.Parameter) -> _Stretch:
        """The same under ZeRO-3, which cuts each parameter into equal, padded shares."""
        group, offset, share = self.zero.grad_position[self.zero.get_param_id(parameter)]
        start = self.zero._get_param_partition_rank(parameter) * share
        flat = self.zero.fp32_partitioned_groups_flat[group]
        return _Stretch(flat, offset, start, min(share, _numel(parameter) - start))

    def _locate_frozen(self, parameter: nn.Parameter) -> _Stretch:
        if self.shards_weights:
            flat: Tensor = parameter.ds_tensor  # pyright: ignore[reportAttributeAccessIssue]
            place, share = self.zero._get_param_partition_rank(parameter), flat.numel()
            start = place * share
            return _Stretch(flat, 0, start, min(share, _numel(parameter) - start))
        _, of = self._expert_slice(parameter)
        holders, place = comm.world_size() // of, comm.rank() // of
        share = -(-parameter.numel() // holders)
        start = place * share
        size = min(share, parameter.numel() - start)
        return _Stretch(parameter.data.view(-1), start, start, size)

    def _flat_partitions(self) -> list[Tensor]:
        if self.shards_weights:
            return self.zero.fp32_partitioned_groups_flat
        return self.zero.single_partition_of_fp32_groups

    def _adam(self, flat: Tensor) -> dict[str, Tensor]:
        """Adam's state of a flat partition; before its first step, what that would start from."""
        state = self.zero.optimizer.state[flat]
        if not state:
            state["step"] = torch.tensor(0.0)
            state |= {field: torch.zeros_like(flat) for field in FIELDS if field != WEIGHT}
        return state

    def adam_step(self) -> int:
        """How many steps Adam has taken: those that were skipped are not among them."""
        (step,) = {int(self._adam(flat)["step"]) for flat in self._flat_partitions()}
        return step

    @torch.no_grad()
    def load(self, stored: StoredPieces, adam_step: int) -> None:
        """Take weights and optimiser state from a checkpoint of any layout, already checked.

        All ranks call it together.
        """
        if self.shards_weights:
            self.zero.checkpoint_event_prologue()  # weights that are kept whole become shares
        comm.on_all(lambda: self._copy_from(stored, adam_step))
        self._update_model_weights()

    def _copy_from(self, stored: StoredPieces, adam_step: int) -> None:
        for piece in self.pieces():
            for field, own in piece.fields.items():
                stop = piece.start + len(own)
                own.copy_(stored.read(field, piece.parameter, piece.start, stop))
        if not self.shards_weights:
            self._copy_frozen_from(stored)
        for flat in self._flat_partitions():
            self._adam(flat)["step"].fill_(adam_step)

    def _copy_frozen_from(self, stored: StoredPieces) -> None:
        """The whole of what every rank holds whole."""
        for name, parameter in self.model.named_parameters():
            if not parameter.requires_grad:
                first = self._expert_slice(parameter)[0] * parameter.numel()
                whole = stored.read(WEIGHT, name, first, first + parameter.numel())
                parameter.copy_(whole.view_as(parameter))

    def _update_model_weights(self) -> None:
        """Make the weights that the model computes with those of the optimiser."""
        if not self.shards_weights:
            self.zero.update_lp_params()
            return
        for group in range(len(self._flat_partitions())):
            self.zero._reassign_or_swap_out_partitioned_parameters(group)
        self.zero.checkpoint_event_epilogue()


def _numel(parameter: nn.Parameter) -> int:
    """Numbers of a parameter on this rank before ZeRO-3, which may have left it empty."""
    return getattr(parameter, "ds_numel", parameter.numel())

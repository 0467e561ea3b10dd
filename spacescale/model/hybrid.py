"""SPACE that also says which bases are hidden from it.

Shapes as in space.py; M hidden bases.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spacescale.bases_config import BasesConfig
from spacescale.genome.dna import HIDDEN
from spacescale.model.bases_head import BasesHead
from spacescale.model.layers import tower_channels
from spacescale.model.recompute import frozen_running_statistics
from spacescale.model.space import Space, SpaceOutput
from spacescale.space_config import ModelConfig, Stage

NORMALISED = ("stem", "conv_tower", "dilated", "pointwise")  # stages with BatchNorm
OWN = ("mask_code.", "bases_head.")  # names of what Space has not begin so


class Hidden(NamedTuple):
    """What is hidden in a batch of one species.

    windows: the masked ones. places: (M,) int64, in the bases of these, one after another. masked,
    clean: how many windows of the species are so on all ranks.
    """

    windows: Sequence[int]
    places: Tensor
    masked: int
    clean: int


@dataclass
class HybridOutput(SpaceOutput):
    """And of each species the logits of A C G T of its hidden bases, float32 (M, 4)."""

    base_logits: dict[str, Tensor] = field(default_factory=dict)


class _Group(NamedTuple):
    """Windows whose BatchNorm statistics are taken together; `kept`: become running ones."""

    rows: list[int]
    kept: bool


class HybridSpace(Space):
    """Space with a code for hidden bases and a head that predicts them.

    Where no base is hidden it is that Space, to the bit. The code is a fifth input channel, 1 where
    a base is hidden; its weights, a tensor of their own, begin at 0. So Space's tensors have the
    names and shapes that they have there.
    """

    def __init__(self, config: ModelConfig, bases: BasesConfig):
        """Build with fresh weights, those of Space first."""
        super().__init__(config)
        self.bases = bases
        width = config.stem_channels
        self.mask_code: nn.Conv1d | None = None
        if bases.code == "channel":
            self.mask_code = nn.Conv1d(1, width, 15, padding=7, bias=False)
            nn.init.zeros_(self.mask_code.weight)
        channels = tower_channels(
            width, config.dim, config.num_downsamples - 1, config.dim_divisible_by
        )
        self.bases_head = BasesHead([width, *channels], config.dim, bases.width_of_head(width))

    def forward(
        self, sequences: dict[str, Tensor], hidden: Mapping[str, Hidden] | None = None
    ) -> SpaceOutput:
        """Predict tracks as Space does; with `hidden`, of each species given, also hidden bases.

        Codes of hidden bases are `dna.HIDDEN`, or what is given in their place. In training
        `hidden` must be given, or the head takes no part in the pass. With it a species may have
        no tracks: then it gets hidden bases alone.
        """
        if hidden is None:
            return super().forward(sequences)
        present, sizes = self._present(sequences)
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        rows = [
            start + row
            for name, start in zip(present, starts, strict=True)
            for row in hidden[name].windows
        ]
        groups = self._groups(sizes, rows, [hidden[name] for name in present])
        codes = torch.cat([sequences[name] for name in present])
        x, *pooled = self._in_groups(self._convolve_keeping, codes, groups)
        x, state, routing = self._transform(x, present, sizes)
        (features,) = self._in_groups(self._pointwise, self._central_bins(x), groups)
        found = self._outputs(features, state, routing, present, sizes)
        output = HybridOutput(**vars(found))
        logits = self._hidden_bases(x, pooled, rows, present, hidden)
        if not output.prediction:  # nothing else rests on the last features, heads and decoder
            logits = logits + output.embedding[present[0]][:0].sum()
        counts = [len(hidden[name].places) for name in present]
        output.base_logits = dict(zip(present, logits.split(counts), strict=True))
        return output

    def _hidden_bases(
        self,
        x: Tensor,
        pooled: list[Tensor],
        rows: list[int],
        present: list[str],
        hidden: Mapping[str, Hidden],
    ) -> Tensor:
        """Logits (M, 4) of all species; the head runs on masked windows alone, be it on none."""
        length = pooled[0].shape[2]
        places, before = [], 0
        for name in present:
            places.append(hidden[name].places + before * length)
            before += len(hidden[name].windows)
        # Statistics of no windows at all are none.
        anywhere = sum(hidden[name].masked for name in present) > 0
        self.bases_head.train(self.training and anywhere)
        index = torch.tensor(rows, dtype=torch.int64).to(x.device, non_blocking=True)
        masked = [features.index_select(0, index) for features in pooled]
        return self.bases_head(masked, x.index_select(0, index), torch.cat(places))

    def _groups(
        self, sizes: list[int], masked: list[int], hidden: Sequence[Hidden]
    ) -> list[_Group]:
        """Alike on all ranks: a group may have no window here, but none that has none anywhere."""
        everything = list(range(sum(sizes)))
        if not self.training:
            return [_Group(everything, True)]
        parts = [(everything, hidden)]  # rows, and what is hidden in them
        if self.config.batchnorm == "per_species":
            starts = [sum(sizes[:i]) for i in range(len(sizes))]
            parts = [
                (everything[start : start + size], [of])
                for start, size, of in zip(starts, sizes, hidden, strict=True)
            ]
        if self.bases.batchnorm == "together":
            return [_Group(rows, True) for rows, _ in parts]
        any_clean = sum(of.clean for of in hidden) > 0
        groups = []
        for rows, of_rows in parts:
            if sum(of.clean for of in of_rows):
                groups.append(_Group([row for row in rows if row not in masked], True))
            if sum(of.masked for of in of_rows):
                groups.append(_Group([row for row in rows if row in masked], not any_clean))
        return groups

    def _in_groups(
        self, work: Callable[[Tensor], list[Tensor]], x: Tensor, groups: list[_Group]
    ) -> list[Tensor]:
        """Results (B, …) of `work` on windows (B, …), which sees one group after the other."""
        if len(groups) == 1:
            return work(x)
        found = []
        for group in groups:
            with ExitStack() as stack:
                for stage in () if group.kept else NORMALISED:
                    stack.enter_context(frozen_running_statistics(getattr(self, stage)))
                found.append(work(x[torch.tensor(group.rows, dtype=torch.int64, device=x.device)]))
        order = torch.tensor([row for group in groups for row in group.rows], device=x.device)
        back = order.argsort()
        return [torch.cat(parts).index_select(0, back) for parts in zip(*found, strict=True)]

    def _pointwise(self, x: Tensor) -> list[Tensor]:
        """(B, D, N) → features (B, N, 2D)."""
        return [self.pointwise_out(self._stage("pointwise", self.pointwise, x).transpose(1, 2))]

    def _convolve(self, sequences: Tensor) -> Tensor:
        return self._convolve_keeping(sequences)[0]

    def _convolve_keeping(self, sequences: Tensor) -> list[Tensor]:
        """Sequences → (B, D, bins), and what was pooled on the way, (B, C, L) first."""
        x = self._stage("stem", self.stem[0], self._bases(sequences))
        if self.mask_code is not None and not sequences.is_floating_point():
            mask = (sequences == HIDDEN)[:, None].to(self.mask_code.weight.dtype)  # (B, 1, L)
            x = x + self._stage("stem", self.mask_code, mask)
        pooled = []
        steps: list[tuple[Stage, Sequence[nn.Module]]] = [("stem", self.stem[1:])]  # pyright: ignore
        steps += [("conv_tower", layers) for layers in self.conv_tower]  # pyright: ignore
        for stage, (*layers, pool) in steps:
            for layer in layers:
                x = self._stage(stage, layer, x)
            pooled.append(x)
            x = self._stage(stage, pool, x)
        for block in self.dilated:
            x = self._stage("conv_tower", block, x)
        return [x, *pooled]


def space_alone(model: Space) -> Space:
    """The Space of a model, of the same weights, without the code and head of hidden bases."""
    if not isinstance(model, HybridSpace):
        return model
    space = Space(model.config)
    weights = model.state_dict()
    space.load_state_dict({n: value for n, value in weights.items() if not n.startswith(OWN)})
    return space.train(model.training)

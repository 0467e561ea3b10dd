"""SPACE: convolutional trunk, species-aware transformer, profile-grouped decoder.

Shapes: B batch (all species together), L bases, N bins, D dim, T tracks, E experts, S species.
Paper: arXiv 2506.01833. Where the released code and the paper differ, the docstrings say which
is followed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spacescale.model.attention import Attention, positional_basis
from spacescale.model.decoder import MLPDecoder, ProfileDecoder
from spacescale.model.layers import (
    GELU,
    NUM_BASES,
    AttentionPool,
    ConvBlock,
    ResidualConvBlock,
    centre_crop,
    one_hot,
    tower_channels,
)
from spacescale.model.moe import DenseFeedForward, SpeciesMoE
from spacescale.model.precision import at_least_float32
from spacescale.model.recompute import recompute_in_backward
from spacescale.model.router import RoutingSums
from spacescale.space_config import ModelConfig, Stage


@dataclass
class SpaceOutput:
    """Results of one forward pass, keyed by species name where they belong to one species."""

    prediction: dict[str, Tensor]  # (B_s, N, T_s) float32, softplus applied
    enhanced: dict[str, Tensor]  # the same of the decoder's prediction alone; {} without decoder
    embedding: dict[str, Tensor]  # (B_s, N, 2D) final pointwise features
    encoder_routing: list[RoutingSums]  # one per MoE block, rows = species
    decoder_routing: RoutingSums | None  # rows = species × profile types, species-major
    expert_owners: tuple[str | None, ...] = ()  # of the encoder's, where species have their own


class TransformerBlock(nn.Module):
    """Pre-norm attention with residual, then the mixture of experts (or a dense FFN)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.norm = nn.LayerNorm(config.dim)
        self.attention = Attention(
            config.dim,
            heads=config.heads,
            dim_key=config.attn_dim_key,
            dropout=config.attn_dropout,
            pos_dropout=config.pos_dropout,
        )
        self.dropout = nn.Dropout(config.dropout)
        self.moe: nn.Module
        if config.species_num_experts:
            self.moe = SpeciesMoE(config)
        else:
            self.moe = DenseFeedForward(config.dim, config.dropout)

    def forward(
        self, x: Tensor, basis: Tensor, species: Tensor
    ) -> tuple[Tensor, RoutingSums | None]:
        """(B, N, D) → (B, N, D) and the routing sums, if routed."""
        x = x + self.dropout(self.attention(self.norm(x), basis))
        return self.moe(x, species)


class Space(nn.Module):
    """Predict every track of every species from DNA.

    One pass through the shared trunk takes windows of several species; heads and decoder then
    work on each species' own windows. Every parameter takes part in every pass: those of species
    without windows get zero gradients.

    Which species a batch names decides what is computed, and in which order; how many windows each
    has, 0 included, does not. So gradients arrive in the same order in all processes whose batches
    name the same species, as DeepSpeed's ZeRO-2 and ZeRO-3 need, which pack them as they come.
    """

    def __init__(self, config: ModelConfig):
        """Build with fresh weights. Raises ValueError if the configuration names no species."""
        super().__init__()
        if not config.species:
            raise ValueError("model.species is empty; a model needs at least one species")
        self.config = config
        self.species = tuple(config.species)
        width = config.stem_channels
        self.stem = nn.Sequential(
            nn.Conv1d(NUM_BASES, width, 15, padding=7),
            ResidualConvBlock(width),
            AttentionPool(width, config.pool_sharpness),
        )
        channels = tower_channels(
            width, config.dim, config.num_downsamples - 1, config.dim_divisible_by
        )
        self.conv_tower = nn.Sequential(
            *(
                nn.Sequential(
                    ConvBlock(c_in, c, 5),
                    ResidualConvBlock(c),
                    AttentionPool(c, config.pool_sharpness),
                )
                for c_in, c in zip([width, *channels], channels, strict=False)
            )
        )
        self.dilated = nn.Sequential(
            *(ResidualConvBlock(config.dim, 3, 2**i) for i in range(config.dilated_convs))
        )
        self.species_token: nn.Embedding | None = None
        if config.species_token:
            self.species_token = nn.Embedding(len(self.species), config.dim)
        self.transformer = nn.ModuleList(TransformerBlock(config) for _ in range(config.depth))
        self.pointwise = ConvBlock(config.dim, 2 * config.dim, 1)
        self.pointwise_out = nn.Sequential(nn.Dropout(config.dropout / 8), GELU())
        self.heads = nn.ModuleDict(
            {name: nn.Linear(2 * config.dim, len(t)) for name, t in config.species.items() if t}
        )
        self.decoder: ProfileDecoder | MLPDecoder | None = None
        if config.decoder == "moe":
            self.decoder = ProfileDecoder(config)
        elif config.decoder == "mlp":
            self.decoder = MLPDecoder(config)
        # What follows from the configuration alone is computed when first used: a buffer made here
        # that no file holds would be left as garbage by a loader that builds on the meta device.
        self._basis: Tensor | None = None
        self._track_types: dict[str, Tensor] = {}

    @property
    def layers(self) -> tuple[str, ...]:
        """What `embed` can give: the stem, then each member of these stages, then the last one."""
        stages = ("conv_tower", "dilated", "transformer")
        members = (f"{stage}.{i}" for stage in stages for i in range(len(getattr(self, stage))))
        return ("stem", *members, "pointwise")

    def forward(self, sequences: dict[str, Tensor]) -> SpaceOutput:
        """Predict tracks from species name → base codes (B_s, L) uint8.

        Or → bases (B_s, 4, L) float, in the order A C G T, through which gradients flow; of all
        species the same. B_s may be 0, but not for all species. Raises ValueError naming a species
        that is unknown or has no tracks.
        """
        present, sizes = self._present(sequences)
        if without := [name for name in present if name not in self.heads]:
            raise ValueError(f"species {without[0]!r} has no tracks: only `embed` takes it")
        trunk = self._trunk(torch.cat([sequences[name] for name in present]), present, sizes)
        return self._outputs(*trunk, present, sizes)

    def _present(self, sequences: dict[str, Tensor]) -> tuple[list[str], list[int]]:
        """Species of a batch in the model's order, and how many windows each has."""
        if not sum(map(len, sequences.values())):
            raise ValueError("an empty batch: give the sequences of at least one species")
        for name in sequences:
            self._require_species(name)
        present = [name for name in self.species if name in sequences]
        return present, [sequences[name].shape[0] for name in present]

    def _outputs(
        self,
        features: Tensor,
        state: Tensor | None,
        encoder_routing: list[RoutingSums],
        present: list[str],
        sizes: list[int],
    ) -> SpaceOutput:
        """What `_trunk` gives → tracks of each species that has some."""
        features = features + self._touch_absent(features, state, present)
        states = [None] * len(present) if state is None else state.split(sizes)
        owners = self.config.expert_owners if self.config.own_experts else ()
        output = SpaceOutput({}, {}, {}, encoder_routing, None, owners)
        decoder_sums = {}
        for name, f, s in zip(present, features.split(sizes), states, strict=True):
            output.embedding[name] = f
            if name not in self.heads:
                continue
            output.prediction[name], enhanced, sums = self.tracks_of(f, name, s)
            if enhanced is not None:
                output.enhanced[name] = enhanced
            if sums is not None:
                decoder_sums[name] = sums
        if decoder_sums:
            output.decoder_routing = self._stack_species(decoder_sums)
        return output

    def tracks_of(
        self, features: Tensor, species: str, state: Tensor | None
    ) -> tuple[Tensor, Tensor | None, RoutingSums | None]:
        """Features (B, N, 2D) and token's state (B, D) of a species → its tracks (B, N, T).

        Returns the prediction, that of the decoder alone and the decoder's routing, the latter two
        where there is one.
        """
        base = at_least_float32(self.heads[species](features))  # (B, N, T)
        if self.decoder is None:
            return F.softplus(base), None, None
        enhanced, sums = self._decode(species, base, features, state)
        enhanced = at_least_float32(enhanced)
        return F.softplus((base + enhanced) / 2), F.softplus(enhanced), sums

    def _decode(
        self, name: str, base: Tensor, features: Tensor, state: Tensor | None
    ) -> tuple[Tensor, RoutingSums | None]:
        if isinstance(self.decoder, MLPDecoder):
            return self._stage("decoder", self.decoder, base), None
        track_types = self._types_of_tracks(name, base.device)
        return self._stage("decoder", self.decoder, base, features, state, track_types)

    def embed(self, sequences: Tensor, species: str, layer: str = "pointwise") -> Tensor:
        """Features of sequences of one species: without crop, head and decoder, of any length.

        sequences: base codes (B, L) uint8, or bases (B, 4, L) float, through which gradients flow;
        L ≥ 1 bp. layer: one of `layers`. Returns (B, positions, channels): a position is
        `bin_size` bp, in `stem` 2 and in `conv_tower.K` 2^(K+2), the last one perhaps fewer, and
        channels are 2D in `pointwise`, D behind the tower. Raises ValueError for an unknown species
        or layer, and for empty sequences.
        """
        self._require_species(species)
        if layer not in self.layers:
            raise ValueError(f"layer {layer!r}: this model has {', '.join(self.layers)}")
        if not sequences.shape[-1]:
            raise ValueError("sequences of 0 bp have no features")
        x = self.stem(self._bases(sequences))
        if layer == "stem":
            return x.transpose(1, 2)
        for i, stage in enumerate(self.conv_tower):
            x = stage(x)
            if layer == f"conv_tower.{i}":
                return x.transpose(1, 2)
        for i, block in enumerate(self.dilated):
            x = block(x)
            if layer == f"dilated.{i}":
                return x.transpose(1, 2)
        bins = x.shape[2]
        x, basis, numbers = self._enter_transformer(x, [species], [len(x)])
        for i, block in enumerate(self.transformer):
            x, _ = block(x, basis, numbers)
            if layer == f"transformer.{i}":
                return x[:, :bins]
        return self.pointwise_out(self.pointwise(x[:, :bins].transpose(1, 2)).transpose(1, 2))

    def _require_species(self, name: str) -> None:
        if name not in self.species:
            raise ValueError(f"species {name!r}: this model knows {list(self.species)}")

    def _enter_transformer(
        self, x: Tensor, present: list[str], sizes: list[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(B, D, bins) → bins and species token (B, N, D), positional basis, species (B,)."""
        x = x.transpose(1, 2)
        # Built on the host and sent without waiting: neither the host nor the device stops here.
        species = torch.repeat_interleave(
            torch.tensor([self.species.index(name) for name in present]), torch.tensor(sizes)
        ).to(x.device, non_blocking=True)
        if self.species_token is not None:
            # The released code appends the token at the end (the paper draws it in front).
            x = torch.cat([x, self.species_token(species)[:, None].to(x.dtype)], dim=1)
        return x, self._positional_basis(x.shape[1], x.device), species

    def _trunk(
        self, sequences: Tensor, present: list[str], sizes: list[int]
    ) -> tuple[Tensor, Tensor | None, list[RoutingSums]]:
        """Sequences → features (B, N, 2D), species tokens' final states (B, D), routing."""
        parts = self._normalised_apart(sequences, sizes)
        x = torch.cat([self._convolve(part) for part in parts])
        x, state, routing = self._transform(x, present, sizes)
        parts = self._normalised_apart(self._central_bins(x), sizes)
        x = torch.cat([self._stage("pointwise", self.pointwise, part) for part in parts])
        return self.pointwise_out(x.transpose(1, 2)), state, routing

    def _transform(
        self, x: Tensor, present: list[str], sizes: list[int]
    ) -> tuple[Tensor, Tensor | None, list[RoutingSums]]:
        """(B, D, bins) → bins (B, bins, D), species tokens' final states (B, D), routing."""
        x, basis, species = self._enter_transformer(x, present, sizes)
        routing = []
        for block in self.transformer:
            x, sums = self._stage("transformer", block, x, basis, species)
            if sums is not None:
                routing.append(sums)
        state = None
        if self.species_token is not None:
            x, state = x[:, :-1], x[:, -1]
        return x, state, routing

    def _central_bins(self, x: Tensor) -> Tensor:
        """(B, bins, D) → (B, D, N)."""
        return centre_crop(x, self.config.target_length, self.config.odd_crop).transpose(1, 2)

    def _normalised_apart(self, x: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
        """Split windows (B, …) into those whose BatchNorm statistics are taken together."""
        apart = self.training and self.config.batchnorm == "per_species"
        return x.split(sizes) if apart else (x,)

    def _bases(self, sequences: Tensor) -> Tensor:
        """Codes (B, L) uint8 or bases (B, 4, L) float → (B, 4, L) in the weights' type."""
        dtype = next(self.stem.parameters()).dtype
        if sequences.ndim == 2 and not sequences.is_floating_point():
            return one_hot(sequences, dtype)
        if sequences.ndim == 3 and sequences.shape[1] == NUM_BASES:
            return sequences.to(dtype)
        raise ValueError(
            f"sequences {sequences.dtype} {tuple(sequences.shape)}: expected codes (B, L) uint8 or "
            f"bases (B, {NUM_BASES}, L) float"
        )

    def _convolve(self, sequences: Tensor) -> Tensor:
        """Sequences → (B, D, bins)."""
        x = self._stage("stem", self.stem, self._bases(sequences))
        for layer in self.conv_tower:
            x = self._stage("conv_tower", layer, x)
        for block in self.dilated:
            x = self._stage("conv_tower", block, x)
        return x

    def _stage(self, stage: Stage, module: nn.Module | None, *inputs: Any) -> Any:
        """Run a part of a stage, keeping its activations or only its inputs for backward."""
        assert module is not None
        if stage in self.config.checkpoint_stages and self.training and torch.is_grad_enabled():
            return recompute_in_backward(module, *inputs)
        return module(*inputs)

    def _positional_basis(self, num_positions: int, device: torch.device) -> Tensor:
        """The basis depends on the length alone: computed once, for all blocks and steps."""
        basis = self._basis
        if basis is None or basis.shape[0] != 2 * num_positions - 1 or basis.device != device:
            with torch.inference_mode(False):  # it is kept, and later passes may need gradients
                basis = positional_basis(
                    num_positions,
                    self.config.dim // self.config.heads,
                    device,
                    self.config.gamma_scale,
                )
            self._basis = basis
        return basis

    def _types_of_tracks(self, species: str, device: torch.device) -> Tensor:
        """Number of each track's profile type (T,) int64, kept once it was computed."""
        kept = self._track_types.get(species)
        if kept is None or kept.device != device:
            types = self.config.profile_types
            numbers = [types.index(assay) for assay in self.config.species[species]]
            with torch.inference_mode(False):  # later passes may need gradients
                kept = torch.tensor(numbers).to(device)
            self._track_types[species] = kept
        return kept

    def _touch_absent(self, features: Tensor, state: Tensor | None, present: list[str]) -> Tensor:
        """Zero that depends on the heads of species that the batch does not name.

        And, in training, on the decoder where none that it names has tracks.
        """
        zero = features.new_zeros(())
        for name, head in self.heads.items():
            if name not in present:
                zero = zero + head(features[:0]).sum()
        if self.training and not any(name in self.heads for name in present):
            some, none = next(iter(self.heads)), None if state is None else state[:0]
            zero = zero + self.tracks_of(features[:0], some, none)[0].sum()
        return zero

    def _stack_species(self, sums: dict[str, RoutingSums]) -> RoutingSums:
        some = next(iter(sums.values()))
        absent = RoutingSums(*(torch.zeros_like(part) for part in some))
        rows = [sums.get(name, absent) for name in self.species]
        return RoutingSums(*(torch.cat(parts) for parts in zip(*rows, strict=True)))

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, revision: str | None = None, prove: bool = True
    ) -> Space:
        """Load a folder written by `spacescale convert`, in evaluation mode, on the CPU.

        folder: or ORG/NAME of the Hub, where revision is a branch, tag or commit. Reads
        `config.json` and `model.safetensors`, or the files that its index names. prove: hold it
        against the folder's proof, if there is one. Raises UserError naming the file and what is
        missing, unexpected or of another shape, or what is computed otherwise.
        """
        from spacescale.model.exports import load_export, local_folder

        return load_export(local_folder(folder, revision), prove)


def meta_model(config: ModelConfig) -> Space:
    """Build the model on PyTorch's meta device: names and shapes without storage."""
    with torch.device("meta"):
        return Space(config)

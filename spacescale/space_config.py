"""Shape of SPACE (model/space.py); presets.py has its sizes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from spacescale.sections import Fraction, NonNegative, Section

Stage = Literal["stem", "conv_tower", "transformer", "pointwise", "decoder"]


class ModelConfig(Section):
    """Shape of a SPACE model. Paper: arXiv 2506.01833; defaults are those of the large model."""

    species: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="species name → assay (profile type) of each of its tracks, in head order; "
        "filled from the data sets at the start of a run",
    )
    seq_length: int = Field(default=131_072, gt=0, description="bp of sequence the model sees")
    target_length: int = Field(default=896, gt=0, description="bins predicted, centred")
    num_downsamples: int = Field(default=7, ge=2, description="halvings; a bin is 2**this bp")
    dim: int = Field(default=1536, gt=0, description="channels of the transformer")
    stem_dim: int | None = Field(
        default=None,
        gt=0,
        description="channels at single bases, where most of a small model's time goes; the conv "
        "tower grows from there to dim. None = dim / 2 (published)",
    )
    pool_sharpness: NonNegative = Field(
        default=2.0,
        description="attention pooling of base pairs starts with this times the identity: 2, close "
        "to max pooling (published); 0, at the mean, from which little data learn more",
    )
    dim_divisible_by: int = Field(default=128, gt=0, description="rounding of tower channels")
    dilated_convs: int = Field(
        default=0,
        ge=0,
        description="residual convolutions of 3 bins between tower and transformer, the reach of "
        "each twice that of the one before (as Basenji's, Kelley 2018); attention takes long to "
        "learn from little data what lies next to a bin. 0 = none (published)",
    )
    depth: int = Field(default=11, ge=1, description="transformer blocks")
    heads: int = Field(default=8, gt=0, description="attention heads")
    attn_dim_key: int = Field(default=64, gt=0, description="key and query width per head")
    species_num_experts: int = Field(
        default=4, ge=0, description="experts of each block's cross-species MoE; 0 = one dense FFN"
    )
    species_top_k: int = Field(default=3, ge=1, description="experts chosen per token")
    own_experts: dict[str, Annotated[int, Field(ge=1)]] = Field(
        default_factory=dict,
        description="species name → how many of each block's experts it alone may choose, beside "
        "those that all share: the last of species_num_experts, in this order",
    )
    species_gates: Literal["own", "shared"] = Field(
        default="own",
        description="which gate chooses among a block's experts: each species' own (published); or "
        "one for all species, which can tell them apart by the token and the sequence alone",
    )
    species_token: bool = Field(
        default=True, description="append a learned token of the window's species to its bins"
    )
    decoder: Literal["moe", "mlp", "none"] = Field(
        default="moe",
        description="profile-grouped experts; or one dense network as large as all of them; or "
        "none, so that the heads' prediction stands",
    )
    tracks_num_experts: int = Field(
        default=8, ge=1, description="experts of the decoder (with 'mlp': its width)"
    )
    tracks_top_k: int = Field(default=3, ge=1, description="experts chosen per track and group")
    groups_per_type: int = Field(default=2, ge=1, description="decoder gates per profile type")
    dropout: Fraction = Field(default=0.4, description="residual and expert dropout")
    attn_dropout: Fraction = Field(default=0.05, description="dropout of attention weights")
    pos_dropout: Fraction = Field(default=0.01, description="dropout of the positional basis")
    gamma_scale: Literal["position", "feature"] = Field(
        default="position",
        description="gamma functions of the positional basis, scaled to a maximum of 1 over the "
        "features at each distance (released SPACE); or each over all distances, as in the "
        "TensorFlow Enformer",
    )
    batchnorm: Literal["mixed", "per_species"] = Field(
        default="mixed",
        description="whose windows share training statistics: the whole batch's, so that training "
        "and evaluation agree; or each species' own, one after the other (released)",
    )
    group_weights: Literal["mean_of_softmaxes", "softmax_of_sum"] = Field(
        default="mean_of_softmaxes",
        description="how the decoder joins sequence and species: mean of two softmaxes (released) "
        "or one softmax of the sum (paper)",
    )
    odd_crop: Literal["exact", "released"] = Field(
        default="exact",
        description="where an odd number of bins is cropped away: keep target_length; or one bin "
        "fewer (released)",
    )
    zero_gates: Literal["keep", "released"] = Field(
        default="keep",
        description="a chosen expert whose weight underflows to exactly 0: keep its place; or drop "
        "it and give every later token experts chosen for others (released)",
    )
    unused_layer_norm: bool = Field(
        default=False,
        description="carry the decoder's LayerNorm that takes part in nothing (released)",
    )
    track_grouping: Literal["table", "released"] = Field(
        default="table",
        description="profile type of each track: its assay in the targets table; or the released "
        "grouping of the Basenji tables of human and mouse (paper's Table 6 gives only counts)",
    )
    checkpoint_stages: tuple[Stage, ...] = Field(
        default=(),
        description="stages whose activations are recomputed in the backward pass, not kept",
    )

    @property
    def stem_channels(self) -> int:
        """Channels of the stem, from which the conv tower starts."""
        return self.stem_dim or self.dim // 2

    @property
    def bin_size(self) -> int:
        """Base pairs per output bin."""
        return 2**self.num_downsamples

    @property
    def num_tokens(self) -> int:
        """Positions the transformer sees: the bins, and the species token."""
        return self.seq_length // self.bin_size + self.species_token

    @property
    def num_shared_experts(self) -> int:
        """Experts of each block that every species may choose: the first ones."""
        return self.species_num_experts - sum(self.own_experts.values())

    @property
    def expert_owners(self) -> tuple[str | None, ...]:
        """Of each of a block's experts the species that alone may choose it; None: all may."""
        own = (name for name, count in self.own_experts.items() for _ in range(count))
        return (*[None] * self.num_shared_experts, *own)

    @property
    def profile_types(self) -> tuple[str, ...]:
        """Assays of all species, each once, sorted: the decoder's profile types."""
        return tuple(sorted({assay for assays in self.species.values() for assay in assays}))

    @model_validator(mode="after")
    def _check_dimensions(self) -> ModelConfig:
        if self.dim % self.heads:
            raise ValueError(f"model.dim={self.dim} must be divisible by heads={self.heads}")
        if (self.dim // self.heads) % 6:
            raise ValueError(
                f"model.dim={self.dim} / heads={self.heads} = {self.dim // self.heads} must be "
                "divisible by 6 (the positional basis has 3 families in 2 symmetries)"
            )
        if 0 < self.species_num_experts < self.species_top_k:
            raise ValueError(
                f"model.species_top_k={self.species_top_k} exceeds "
                f"species_num_experts={self.species_num_experts}"
            )
        self._check_own_experts()
        if self.decoder == "moe" and self.tracks_num_experts < self.tracks_top_k:
            raise ValueError(
                f"model.tracks_top_k={self.tracks_top_k} exceeds "
                f"tracks_num_experts={self.tracks_num_experts}"
            )
        if self.decoder == "moe" and self.species and not self.profile_types:
            raise ValueError(
                "model.decoder=moe, but no species has tracks; model.decoder=none would do"
            )
        if self.dim % self.dim_divisible_by:
            raise ValueError(
                f"model.dim={self.dim} must be divisible by "
                f"dim_divisible_by={self.dim_divisible_by}"
            )
        self._check_crop()
        return self

    def _check_own_experts(self) -> None:
        """Every species must find enough experts to choose from."""
        if not self.own_experts:
            return
        named = f"model.own_experts={self.own_experts}"
        if not self.species_num_experts:
            raise ValueError(f"{named}, but the encoder has no experts (species_num_experts=0)")
        unknown = [name for name in self.own_experts if name not in self.species]
        if self.species and unknown:
            raise ValueError(
                f"{named} names {', '.join(unknown)}; the species are {', '.join(self.species)}"
            )
        if self.num_shared_experts < self.species_top_k:
            raise ValueError(
                f"{named} leaves {self.num_shared_experts} of "
                f"species_num_experts={self.species_num_experts} for all species, fewer than "
                f"species_top_k={self.species_top_k}; species_num_experts="
                f"{self.species_top_k + sum(self.own_experts.values())} would do"
            )
        if self.species_gates == "shared":
            raise ValueError(f"{named}: not with species_gates=shared; take species_gates=own")
        if self.zero_gates == "released":
            raise ValueError(f"{named}: not with zero_gates=released; take zero_gates=keep")

    def _check_crop(self) -> None:
        """As many whole bins must be cropped on the left as on the right, or labels shift."""
        span = self.target_length * self.bin_size
        # As released, an odd number of bins is cropped to one bin fewer, which the decoder of
        # fixed length cannot take.
        any_number = self.odd_crop == "released" and self.decoder == "none"
        excess, step = self.seq_length - span, self.bin_size * (1 if any_number else 2)
        if excess < 0 or excess % step:
            below = span + excess // step * step
            fits = f"{below} or {below + step}" if excess > 0 else str(span)
            raise ValueError(
                f"model.seq_length={self.seq_length} bp must be target_length={self.target_length} "
                f"bins of {self.bin_size} bp plus equal whole bins on both sides; {fits} would do"
            )

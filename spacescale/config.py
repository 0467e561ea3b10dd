"""Run configuration: frozen models of its sections. `overrides.py` builds one.

Two configuration worlds do not overlap. DeepSpeed's JSON owns ZeRO, precision, micro-batch,
accumulation and clipping; everything here is ours: model, data, losses, schedule, run.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from spacescale.bases_config import BasesConfig
from spacescale.sections import Fraction, NonNegative, Section

START_TIMEOUT_S = 600.0
HANG_TIMEOUT_S = 300.0
VALIDATION_SCORE = "valid/pearson_log1p"  # mean over species of their mean over tracks
VALIDATION_LOSS = "valid/loss"  # mean over species of their unweighted Poisson loss
TrackScaleName = Literal["mean", "log1p", "none"]
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


class LossConfig(Section):
    """Weights and forms of the loss terms (paper, section 3.4)."""

    mi_weight: NonNegative = Field(default=0.01, description="species–expert mutual information")
    z_weight: NonNegative = Field(default=0.001, description="mean square of gate logits")
    cv_weight: NonNegative = Field(default=0.005, description="squared variation of expert usage")
    species_weight: dict[str, NonNegative] = Field(
        default_factory=dict,
        description="weight of a species' Poisson loss, 1 where not named; noisy or sparse data "
        "otherwise rule the shared trunk",
    )
    track_scale: TrackScaleName = Field(
        default="mean",
        description="'mean' divides every target by its track's training mean, so that loud and "
        "quiet tracks weigh the same; 'log1p' takes log1p of that, so that spikes do not rule; "
        "'none' trains on the stored values (released)",
    )
    track_balance: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        default=0.0,
        description="0 weighs all tracks the same; 1 inversely to how far their targets' variance "
        "exceeds their mean, within and across species, so that spiky tracks and species do not "
        "rule; between, by that power. The mean over all species is 1",
    )
    poisson_reduction: Literal["windows", "species"] = Field(
        default="windows",
        description="mean over all windows; or the sum of one mean per species (released)",
    )
    routing_scope: Literal["ranks", "rank"] = Field(
        default="ranks",
        description="MI, z and cv of one micro-step's windows on all ranks together; or of each "
        "rank's own (released), which changes with the number of ranks",
    )
    mi_normaliser: Literal["mass", "tokens"] = Field(
        default="mass",
        description="gate mass becomes a distribution by its sum; or by windows × mi_num_tokens "
        "(released), which is not the number of tokens: at 196,608 bp it sums to 1.5",
    )
    mi_num_tokens: int = Field(
        default=1024, ge=1, description="tokens per window that mi_normaliser=tokens counts"
    )
    cv_over: Literal["usage", "gates"] = Field(
        default="usage",
        description="the encoder's variation over the experts' usage; or over single gates "
        "(released), which cannot tell balance from collapse",
    )
    z_reduction: Literal["mean", "sum"] = Field(
        default="mean",
        description="one mean per layer; or the sum of one mean per species, and in the decoder "
        "per profile type and gate (released)",
    )
    empty_types: Literal["skip", "nan"] = Field(
        default="skip",
        description="with z_reduction=sum, a species without tracks of a profile type adds "
        "nothing; or NaN (released)",
    )


class OptimConfig(Section):
    """AdamW with linear warm-up and cosine decay."""

    lr: Annotated[float, Field(gt=0)] = Field(default=5e-4, description="peak learning rate")
    weight_decay: NonNegative = Field(default=0.01, description="not on biases, norms, tokens")
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    max_steps: int = Field(default=50_000, ge=1, description="optimiser steps of the whole run")
    warmup_steps: int = Field(default=5_000, ge=0, description="linear from 0 to lr")
    final_lr_fraction: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.0, description="learning rate at max_steps as a fraction of lr"
    )
    lr_factors: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict,
        description="factor on lr for parameters by patterns of their names (stem, *.router.*); "
        "the first pattern that matches counts, 1 where none does",
    )
    freeze: tuple[str, ...] = Field(
        default=(),
        description="parameters that are not trained, by patterns of their names; a BatchNorm of "
        "which both are frozen keeps its running statistics, too",
    )
    only_new: bool = Field(
        default=False,
        description="train what --init's weights lack, and nothing else: their species stay in the "
        "model without being read, and predict what they did, bit for bit",
    )

    @model_validator(mode="after")
    def _check_warmup(self) -> OptimConfig:
        if self.warmup_steps > self.max_steps:
            raise ValueError(
                f"optim.warmup_steps={self.warmup_steps} exceeds max_steps={self.max_steps}; "
                "set it too"
            )
        return self


class DataConfig(Section):
    """Which windows are read, in what proportion, and how they are augmented."""

    paths: tuple[str, ...] = Field(
        default=(), description="species folders, or folders of them; none = the embedded set"
    )
    micro_batch_size: int = Field(
        default=1,
        ge=1,
        description="windows per process and micro-step where DeepSpeed's JSON says 'auto'; at "
        "most, with global_batch_size",
    )
    global_batch_size: int | None = Field(
        default=None,
        ge=1,
        description="windows per optimiser step of all processes together: micro-batch and "
        "accumulation follow, for any number of processes that divides it. Without it: processes "
        "× micro-batch × accumulation of DeepSpeed's JSON",
    )
    species_balance: Annotated[float, Field(ge=0, le=1)] = Field(
        default=1.0,
        description="1 = every species equally often; 0 = in proportion to its windows",
    )
    species_importance: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict,
        description="factor on how often a species is read, beside species_balance; 1 where not "
        "named",
    )
    shift_bp: int = Field(default=3, ge=0, description="sequence shift drawn from ±this")
    reverse_complement: bool = Field(default=True, description="flip half of the windows")
    roll_targets_windows: int = Field(
        default=0,
        ge=0,
        description="control experiment: training targets are those of the window this many "
        "places further on the same chromosome (0 = off)",
    )
    num_workers: int = Field(default=0, ge=0, description="reader processes per rank")
    on_damaged: Literal["fail", "replace"] = Field(
        default="fail",
        description="a training window that cannot be read: end the run; or read the next "
        "sound one in its place, in at most one of a thousand",
    )


class ParallelConfig(Section):
    """How the experts are spread over processes."""

    ep_size: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        default="auto",
        description="processes that share one set of experts; 'auto' = the largest common "
        "divisor of processes and experts up to max_ep_size",
    )
    max_ep_size: int = Field(default=2, ge=1, description="upper bound of 'auto'")


class RunConfig(Section):
    """Seeds, intervals and what is kept."""

    seed: int = Field(default=0, ge=0)
    log_every: int = Field(default=10, ge=1, description="steps between logged points")
    valid_every: int = Field(default=500, ge=1, description="steps between validations")
    valid_windows: int = Field(default=128, ge=1, description="at most this many per species")
    save_every: int = Field(default=500, ge=1, description="steps between checkpoints")
    keep_last: int = Field(default=2, ge=1, description="newest checkpoints that are kept")
    keep_best: int = Field(default=1, ge=1, description="best checkpoints that are kept as well")
    best_metric: str = Field(
        default=VALIDATION_SCORE,
        description="score of validation by which checkpoints are better, as it is logged; for "
        "example valid/pearson_log1p/SPECIES, or valid/loss/SPECIES, of which less is better",
    )
    patience: int = Field(
        default=0,
        ge=0,
        description="validations in a row without a better best_metric that end the run early, "
        "as done (0 = never)",
    )
    keep_every_steps: int = Field(
        default=0, ge=0, description="checkpoints of multiples of it are kept as well (0 = none)"
    )
    keep_every_hours: NonNegative = Field(
        default=0, description="and one in so many hours (0 = none)"
    )
    save_in_background: bool = Field(
        default=True,
        description="write checkpoints beside training, from a copy in the host's memory: 12 bytes "
        "per weight, shared out over the processes",
    )
    probe_every_save: bool = Field(
        default=False,
        description="let every checkpoint hold predictions that its conversion is proved against, "
        "not only the best and the last",
    )
    max_nonfinite_steps: int = Field(
        default=3, ge=1, description="non-finite steps in a row that end the run"
    )
    max_skipped_steps: int = Field(
        default=10, ge=0, description="skipped steps of a thousand that are borne"
    )
    skip_spikes: bool = Field(
        default=False,
        description="skip steps whose loss or gradient norm is more than 6 standard deviations "
        "above the last 128; they are always reported",
    )
    start_timeout_s: float = Field(
        default=START_TIMEOUT_S, ge=5, description="seconds in which all processes must have come"
    )
    hang_timeout_s: float = Field(
        default=HANG_TIMEOUT_S,
        ge=5,
        le=1500,  # comm.COLLECTIVE_TIMEOUT comes after it
        description="seconds without any progress after which all ranks end, naming the culprit",
    )


def merit(score: float, metric: str) -> float:
    """What is higher the better a score of `run.best_metric` is: itself, or a loss turned round."""
    is_loss = metric.split("/")[:2] == VALIDATION_LOSS.split("/")
    return -score if is_loss else score


class Config(Section):
    """The whole configuration of one run; stored in every checkpoint."""

    preset: str = "space_large"
    objective: Literal["profiles", "profiles+bases"] = Field(
        default="profiles",
        description="what is optimised: profiles, the tracks that were measured along the "
        "sequence; profiles+bases, these and bases that are hidden",
    )
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    data: DataConfig = DataConfig()
    parallel: ParallelConfig = ParallelConfig()
    run: RunConfig = RunConfig()
    bases: BasesConfig = BasesConfig()

    @property
    def reads_anywhere(self) -> bool:
        """Whether windows are read that are none of the data sets' own."""
        return self.objective == "profiles+bases" and self.bases.untracked > 0


def describe_errors(error: ValidationError) -> str:
    """Say in one line what is wrong with which fields."""
    lines = []
    for problem in error.errors(include_url=False):
        where = ".".join(str(part) for part in problem["loc"] if part != "constrained-int")
        message = problem["msg"].removeprefix("Value error, ")
        shown = problem["input"]
        if problem["type"] == "missing":
            lines.append(f"{where} is missing")
        elif problem["type"] == "value_error" or isinstance(shown, dict | BaseModel):
            lines.append(message)
        else:
            lines.append(f"{where}={shown!r}: {message}")
    return "; ".join(dict.fromkeys(lines))

"""Run configuration: frozen models of its sections. `overrides.py` builds one.

Two configuration worlds do not overlap. DeepSpeed's JSON owns ZeRO, precision, micro-batch,
accumulation and clipping; everything here is ours: model, data, losses, schedule, run.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag, ValidationError, model_validator

from spacescale.bases_config import BasesConfig, first_steps
from spacescale.encoder_config import EncoderConfig
from spacescale.errors import UserError
from spacescale.mlm_config import MlmConfig
from spacescale.sections import Fraction, NonNegative, Section
from spacescale.space_config import ModelConfig

START_TIMEOUT_S = 600.0
HANG_TIMEOUT_S = 300.0
VALIDATION_SCORE = "valid/pearson_log1p"  # mean over species of their mean over tracks
VALIDATION_LOSS = "valid/loss"  # mean over species of their unweighted loss
VALIDATION_BASES = "valid/bases"  # begins names of scores of hidden bases
TrackScaleName = Literal["mean", "log1p", "none"]


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
    """AdamW with linear warm-up and decay."""

    lr: Annotated[float, Field(gt=0)] = Field(default=5e-4, description="peak learning rate")
    weight_decay: NonNegative = Field(default=0.01, description="not on biases, norms, tokens")
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    eps: Annotated[float, Field(gt=0)] = Field(default=1e-8, description="AdamW's epsilon")
    max_steps: int = Field(default=50_000, ge=1, description="optimiser steps of the whole run")
    warmup_steps: int = Field(default=5_000, ge=0, description="linear from 0 to lr")
    schedule: Literal["cosine", "linear"] = Field(
        default="cosine", description="how the learning rate falls after the warm-up"
    )
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
        "example valid/pearson_log1p/SPECIES; or valid/loss/SPECIES, or of hidden bases "
        "valid/bases/perplexity, of which less is better",
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


# Scores of which less is better, of all species or, with /SPECIES behind, of one.
LOSSES = (VALIDATION_LOSS, f"{VALIDATION_BASES}/cross_entropy", f"{VALIDATION_BASES}/perplexity")


def merit(score: float, metric: str) -> float:
    """What is higher the better a score of `run.best_metric` is: itself, or a loss turned round."""
    is_loss = f"{metric}/".startswith(tuple(f"{name}/" for name in LOSSES))
    return -score if is_loss else score


# What of `data` says something of tokens; windows of these lie anywhere, and have no targets.
_DATA_OF_TOKENS = (
    "paths", "micro_batch_size", "global_batch_size", "species_balance", "species_importance",
    "reverse_complement", "num_workers",
)  # fmt: skip
MODELS: dict[str, type[Section]] = {"space": ModelConfig, "encoder": EncoderConfig}  # by kind


def kind_of(model: Any) -> str:
    """Which of MODELS a section `model` is, as values or as an object; SPACE where it says none."""
    read = model.get if isinstance(model, dict) else partial(getattr, model)
    return str(read("kind", "space"))


AnyModel = Annotated[
    Annotated[ModelConfig, Tag("space")] | Annotated[EncoderConfig, Tag("encoder")],
    Discriminator(kind_of),
]


class Config(Section):
    """The whole configuration of one run; stored in every checkpoint."""

    preset: str = "space_large"
    objective: Literal["profiles", "profiles+bases", "tokens"] = Field(
        default="profiles",
        description="what is optimised: profiles, the tracks that were measured along the "
        "sequence; profiles+bases, these and bases that are hidden; or tokens, hidden words of the "
        "sequence itself",
    )
    model: AnyModel = ModelConfig()
    loss: LossConfig = LossConfig()
    mlm: MlmConfig = MlmConfig()
    optim: OptimConfig = OptimConfig()
    data: DataConfig = DataConfig()
    parallel: ParallelConfig = ParallelConfig()
    run: RunConfig = RunConfig()
    bases: BasesConfig = BasesConfig()

    @property
    def reads_anywhere(self) -> bool:
        """Whether windows are read that are none of the data sets' own."""
        hides = self.objective == "profiles+bases"
        return hides and (self.bases.untracked > 0 or not all(self.space.species.values()))

    @property
    def space(self) -> ModelConfig:
        """The model, where it is SPACE; UserError where it is another, for what needs tracks."""
        if not isinstance(self.model, ModelConfig):
            raise UserError(
                f"preset {self.preset!r}, objective {self.objective}: its model predicts no "
                "tracks; expected one of profiles (SPACE)"
            )
        return self.model

    @property
    def encoder(self) -> EncoderConfig:
        """The model of the objective `tokens`."""
        assert isinstance(self.model, EncoderConfig), self.objective
        return self.model

    @model_validator(mode="after")
    def _check_objective(self) -> Config:
        """Model and settings must be those of the objective: none is ignored in silence."""
        is_tokens = self.objective == "tokens"
        if is_tokens != isinstance(self.model, EncoderConfig):
            raise ValueError(
                f"objective={self.objective} trains {'an encoder' if is_tokens else 'SPACE'}, and "
                f"preset {self.preset!r} is another model; take a preset of that objective"
            )
        of_others: dict[str, Section] = {"bases": BasesConfig(), "mlm": MlmConfig()}
        if self.objective == "profiles+bases":
            del of_others["bases"]
        if is_tokens:
            kept = {name: getattr(self.data, name) for name in _DATA_OF_TOKENS}
            del of_others["mlm"]
            of_others |= {"loss": LossConfig(), "data": DataConfig(**kept)}
        for section, defaults in of_others.items():
            for name, default in defaults:
                if (value := getattr(getattr(self, section), name)) != default:
                    raise ValueError(
                        f"{section}.{name}={value}: has no meaning for objective={self.objective}"
                    )
        return self

    @model_validator(mode="after")
    def _check_first_steps(self) -> Config:
        """Bases cannot count alone for longer than the run."""
        steps = self.optim.max_steps
        if (first := first_steps(self.bases, steps)) > steps:
            raise ValueError(f"bases.first_steps={first} exceeds optim.max_steps={steps}; set both")
        return self


def describe_errors(error: ValidationError) -> str:
    """Say in one line what is wrong with which fields."""
    lines = []
    for problem in error.errors(include_url=False):
        place = [str(part) for part in problem["loc"] if part != "constrained-int"]
        if place[:1] == ["model"] and place[1:2] and place[1] in MODELS:
            del place[1]  # which of them it was held against
        where = ".".join(place)
        message = problem["msg"].removeprefix("Value error, ")
        shown = problem["input"]
        if problem["type"] == "missing":
            lines.append(f"{where} is missing")
        elif problem["type"] == "value_error" or isinstance(shown, dict | BaseModel):
            lines.append(message)
        else:
            lines.append(f"{where}={shown!r}: {message}")
    return "; ".join(dict.fromkeys(lines))

"""What a fine-tuning may set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from spacescale.errors import UserError
from spacescale.tasks.scores import METRICS

Mode = Literal["full", "lora", "head"]
Pool = Literal["mean", "sum", "max", "cls"]
Strands = Literal["one", "both"]
MODES: tuple[Mode, ...] = get_args(Mode)
POOLS: tuple[Pool, ...] = get_args(Pool)
STRANDS: tuple[Strands, ...] = get_args(Strands)
# Where options say nothing:
SEEDS, SEEDS_OF_FRACTIONS, HEAD_RATE, MIN_STEPS = 5, 3, 1e-3, 300
RATES_OF_SPACE, RATES_OF_ENCODERS = (1e-4, 3e-4, 1e-3, 3e-3), (3e-5, 3e-4, 1e-3)


@dataclass(frozen=True)
class TuningSettings:
    """How a pretrained model learns a task.

    mode: what is trained, see `choose_trained`. lr: peak rate of what was pretrained, head_lr of
    the new layers, species_lr of the token and gates of a new species (head_lr by default).
    batch_size: sequences per step over all processes. epochs: at most; patience: after
    so many without a better validation score training ends, 0 for never. min_steps: of all epochs
    together, each of which is several passes over sequences that are few. shift_bp: at most, to
    either side. strands: "both" trains on sequences as they are or turned, as chance has it, and
    answers with the mean of both. class_weights: classes count alike, however rare. metric: that
    chooses the epoch, the task's own where there is none given.
    """

    mode: Mode = "full"
    layer: str = "pointwise"
    pool: Pool = "mean"
    lr: float = 3e-4
    head_lr: float = HEAD_RATE
    species_lr: float | None = None
    weight_decay: float = 0.01
    batch_size: int = 32
    epochs: int = 10
    patience: int = 0
    min_steps: int = 0
    warmup: float = 0.05
    shift_bp: int = 0
    strands: Strands = "one"
    class_weights: bool = False
    live_batchnorm: bool = False
    lora_rank: int = 8
    metric: str | None = None
    seed: int = 0

    @property
    def both_strands(self) -> bool:
        """Whether a sequence is read on both."""
        return self.strands == "both"

    @property
    def features_stay(self) -> bool:
        """Whether a sequence has the same features, of each strand, in every epoch."""
        return self.mode == "head" and not self.shift_bp

    def __post_init__(self) -> None:
        for name in ("lr", "head_lr", "species_lr", "batch_size", "epochs", "lora_rank"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise UserError(f"{name}={value}: must be above 0")
        for name in ("weight_decay", "patience", "min_steps", "shift_bp"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name}={getattr(self, name)}: must not be negative")
        if self.live_batchnorm and self.mode != "full":
            raise UserError(f"live BatchNorm statistics need mode full, not {self.mode}")


def different_rates(mode: Mode, rates: Sequence[float], head_rate: float) -> tuple[float, ...]:
    """Those of the rates that train differently: where only the last layer learns, its own."""
    if mode != "head":
        return tuple(rates)
    first = {max(rate, head_rate): rate for rate in reversed(rates)}
    return tuple(rate for rate in rates if rate in first.values())


def chosen_beside(words: Sequence[str] | None, known: Sequence[str]) -> tuple[str, ...]:
    """What --beside asks for; all where it is not given. Raises UserError for another word."""
    beside = tuple(known) if words is None else tuple(words)
    if unknown := [word for word in beside if word not in known]:
        raise UserError(f"--beside {unknown[0]}: there are {', '.join(known)}")
    return beside


def require_metric(metric: str | None) -> None:
    """Raise UserError for a --metric that no kind of task has."""
    known = [name for of_kind in METRICS.values() for name in of_kind]
    if metric is not None and metric not in known:
        raise UserError(f"--metric {metric}: there are {', '.join(known)}")

"""Settings of the objective profiles+bases: which bases are hidden, and what counts when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, model_validator

from spacescale.sections import Fraction, NonNegative, Section

Share = Annotated[float, Field(ge=0.0, le=1.0)]
WIDTH_OF_STEM, LEAST_WIDTH = 6, 32  # the head's width: a sixth of the stem's, or this
ALONE = 1.0  # weight of the bases while they are all that counts
TRUNK_SLOWER = 5.0  # after bases alone the trunk learns so many times more slowly, as Shorkie's


class BasesConfig(Section):
    """Masked bases beside profiles; read by the objective profiles+bases alone."""

    mask_windows: Share = Field(
        default=0.5,
        description="share of the windows in which bases are hidden; the rest are as they will be "
        "at use",
    )
    untracked: Fraction = Field(
        default=0.0,
        description="share of the windows of species with tracks that are read anywhere in the "
        "sequence that may train, contigs without tracks among it, with bases hidden and no "
        "targets; while bases count alone, all of them, if it is above 0",
    )
    trackless_share: Fraction = Field(
        default=0.25,
        description="share of all windows that species without any tracks have at most, once "
        "profiles count; while bases count alone they have what data.species_balance gives them",
    )
    rate: Fraction = Field(
        default=0.15, description="share of a masked window's bases that is hidden"
    )
    rate_up_to: Fraction | None = Field(
        default=None, description="draw the rate of each window from rate to this; None: it is rate"
    )
    single_share: Share = Field(
        default=0.5,
        description="of the hidden bases, those that are hidden one by one, as a variant is "
        "scored; the rest in spans, as long as motifs",
    )
    span_min: int = Field(default=6, ge=1, description="bp of the shortest spans")
    span_max: int = Field(default=20, ge=1, description="bp of the longest; all are as likely")
    masked_share: Share = Field(
        default=0.8, description="of spans and single bases, those that become the mask code"
    )
    random_share: Share = Field(
        default=0.1,
        description="of spans and single bases, those that become other bases; what is neither "
        "stays, and is to be predicted all the same",
    )
    weight: NonNegative = Field(
        default=0.1, description="of the bases' cross-entropy beside the profiles, at first"
    )
    final_weight: NonNegative = Field(
        default=0.03,
        description="the same in the last step, optim.max_steps; in between in proportion",
    )
    repeat_weight: NonNegative = Field(
        default=0.1, description="factor on the loss of bases in repeats, where these are known"
    )
    schedule: Literal["joint", "first", "first+joint"] = Field(
        default="first+joint",
        description="both at all times; bases first, then profiles alone with a trunk that learns "
        "5 times more slowly (Shorkie); or bases first, then both (NTv3)",
    )
    first_share: Fraction = Field(
        default=1 / 3,
        description="share of the steps in which bases count alone; all windows are masked",
    )
    first_steps: int | None = Field(
        default=None,
        ge=0,
        description="the same as a number of steps; None: first_share of optim.max_steps. It "
        "stays what it was where a run goes on with other max_steps",
    )
    masked_profile_weight: NonNegative = Field(
        default=1.0, description="factor on the profiles' loss of masked windows"
    )
    code: Literal["channel", "zero"] = Field(
        default="channel",
        description="a hidden base is all zeros, as N is, and 1 in a fifth input channel whose "
        "weights begin at 0; or all zeros alone",
    )
    head_width: int | None = Field(
        default=None,
        ge=1,
        description="channels of the head at single bases; None: a sixth of the stem's, or 32",
    )
    batchnorm: Literal["together", "apart"] = Field(
        default="together",
        description="masked and clean windows share training statistics; or each has its own, and "
        "those of the clean ones are kept for use, of micro-steps without any those of the masked; "
        "with model.batchnorm=per_species in each species",
    )
    shuffle_labels: bool = Field(
        default=False,
        description="control experiment: the bases to be predicted are those of the window with "
        "its dinucleotides shuffled, from which nothing can be learnt",
    )

    @model_validator(mode="after")
    def _check(self) -> BasesConfig:
        if self.schedule == "joint" and self.first_steps:
            raise ValueError(
                f"bases.first_steps={self.first_steps}: with bases.schedule=joint bases count "
                "alone in no step; leave it out, or take first+joint"
            )
        if self.span_min > self.span_max:
            raise ValueError(
                f"bases.span_min={self.span_min} exceeds span_max={self.span_max}; set both"
            )
        if self.masked_share + self.random_share > 1 + 1e-9:
            raise ValueError(
                f"bases.masked_share={self.masked_share} and random_share={self.random_share} "
                "exceed 1 together"
            )
        if self.rate_up_to is not None and self.rate_up_to < self.rate:
            raise ValueError(
                f"bases.rate_up_to={self.rate_up_to} is below rate={self.rate}; leave it out or "
                "take a larger one"
            )
        return self

    def width_of_head(self, stem_channels: int) -> int:
        """Channels of the head beside a stem of so many."""
        return self.head_width or max(LEAST_WIDTH, stem_channels // WIDTH_OF_STEM)


@dataclass(frozen=True)
class Phase:
    """What counts in one step.

    bases, profiles: factors on the two losses. masked: share of the windows with tracks in which
    bases are hidden. untracked: share of windows that are read without their tracks, of species
    that have some.
    """

    bases: float
    profiles: float
    masked: float
    untracked: float


def first_steps(bases: BasesConfig, max_steps: int) -> int:
    """How many steps at the beginning are for bases alone."""
    if bases.schedule == "joint":
        return 0
    known = bases.first_steps
    return round(bases.first_share * max_steps) if known is None else known


def with_first_steps(bases: BasesConfig, max_steps: int) -> BasesConfig:
    """The same settings, which say in steps how long bases count alone.

    So that a run that goes on with other `max_steps` does not go back to bases alone.
    """
    return bases.model_copy(update={"first_steps": first_steps(bases, max_steps)})


def mean_masked_share(bases: BasesConfig, max_steps: int, trackless: bool = False) -> float:
    """Share of all windows of a run of `max_steps` in which bases are hidden.

    trackless: some species have no tracks, and all the windows that they may have.
    """
    first = first_steps(bases, max_steps) / max_steps
    without = bases.trackless_share if trackless else 0.0
    of_tracked = bases.untracked + (1 - bases.untracked) * bases.mask_windows
    after = without + (1 - without) * of_tracked
    return first + (1 - first) * (0.0 if bases.schedule == "first" else after)


def phase_at(step: int, bases: BasesConfig, max_steps: int) -> Phase:
    """What counts in step 0 … max_steps − 1.

    Like the learning rate the weight of bases falls to its end at `max_steps`: a run that goes on
    with more of them has from there on the weight of one that was planned for as many, of which as
    many are for bases alone. What is read and masked depends on the latter alone.
    """
    first = first_steps(bases, max_steps)
    if step < first:
        return Phase(ALONE, 0.0, 1.0, 1.0 if bases.untracked else 0.0)
    if bases.schedule == "first":
        return Phase(0.0, 1.0, 0.0, 0.0)
    done = (step - first) / max(1, max_steps - 1 - first)
    weight = bases.weight + (bases.final_weight - bases.weight) * done
    return Phase(weight, 1.0, bases.mask_windows, bases.untracked)

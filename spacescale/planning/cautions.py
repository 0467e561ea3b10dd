"""What to be careful about, before a run on given data sets: one line each."""

from __future__ import annotations

import os

from spacescale.dataset.sampler import SampleOrder
from spacescale.genome.aliases import shorten
from spacescale.planning import recipe
from spacescale.planning.data_facts import SpeciesFacts, TrackFacts
from spacescale.planning.trial import Trial

BUSY = 0.75  # of the cores' time; a trial that got less was not alone


def cautions(
    species: list[SpeciesFacts],
    epochs: dict[str, float],
    steps: int,
    order: SampleOrder,
    trial: Trial,
    step_s: float,
) -> list[str]:
    """Return a line for each thing that a person should know; epochs: of each species.

    step_s: what a step takes by the trial.
    """
    lines = []
    for each in species:
        lines += _on_sequence(each) + _on_tracks(each) + _on_validation(each)
    lines += _on_epochs(epochs, order.num_windows)
    if steps < recipe.FEW_STEPS:
        lines.append(f"{steps} steps are hardly enough to learn from; give more --minutes")
    lines += _on_mutual_information(order)
    if trial.cpu_share < BUSY:
        load, alone_s = os.getloadavg()[0], trial.cpu_share * step_s
        lines.append(
            f"the machine is busy (load {load:.1f}): the trial had {trial.cpu_share:.0%} of the "
            f"cores' time. Alone, a step would take {alone_s:.2g} s at most, and more of them "
            "would fit; ask again when it is free"
        )
    return lines


def _on_sequence(species: SpeciesFacts) -> list[str]:
    if species.train_bp >= recipe.LITTLE_SEQUENCE_BP:
        return []
    return [
        f"{species.name}: {species.train_bp / 1e6:.2g} Mb to train on; with less than "
        f"{recipe.LITTLE_SEQUENCE_BP / 1e6:g} Mb a plain CNN or a ridge on 4-mers did as well or "
        "better on four species. Look at evaluate --baseline cnn"
    ]


def _on_tracks(species: SpeciesFacts) -> list[str]:
    def named(tracks: list[TrackFacts]) -> str:
        return f"{species.name}: {shorten([track.identifier for track in tracks], 4)}"

    dead = [track for track in species.tracks if not track.above_zero > 0]
    little = [track for track in species.tracks if track.measured < recipe.LITTLE_MEASURED]
    few = [
        track
        for track in species.tracks
        if track.measured * species.train_bins < recipe.FEW_MEASURED_BINS and track not in dead
    ]
    lines = []
    if dead:
        lines.append(
            f"{named(dead)}: no value above 0 in {species.looked_at} training windows; nothing "
            "can be learnt from it"
        )
    if little:
        least = min(track.measured for track in little)
        lines.append(
            f"{named(little)}: measured in {least:.1%} of the bases of the targets at the least; "
            f"{'what is left counts as 0' if species.zero_filled else 'training uses these alone'}"
        )
    if few:
        lines.append(
            f"{named(few)}: fewer than {recipe.FEW_MEASURED_BINS:,} measured training bins; expect "
            "little of it"
        )
    return lines


def _on_validation(species: SpeciesFacts) -> list[str]:
    count = species.windows.get("valid", 0)
    if not count:
        return [f"{species.name}: no validation windows; its best checkpoint cannot be told"]
    if count < recipe.FEW_VALID_WINDOWS:
        return [
            f"{species.name}: {count} validation windows are too few to tell small differences; "
            "the best checkpoint is partly chance. Hold out more, or evaluate the last one, too "
            "(RUN/checkpoints/step-…)"
        ]
    return []


def _on_epochs(epochs: dict[str, float], train: dict[str, int]) -> list[str]:
    many = [name for name, count in epochs.items() if count > recipe.OVERFITTING_EPOCHS]
    return [
        f"{name}: {train[name]:,} training windows, each read {epochs[name]:.0f} times: "
        "overfitting is likely. Watch validation beside training loss; run.patience ends it early"
        for name in many
    ]


def _on_mutual_information(order: SampleOrder) -> list[str]:
    if len(order.num_windows) == 1:
        return ["one species: the mutual-information loss has nothing to tell apart, and is 0"]
    share = order.share_of_one_species(on_each_rank=False)
    if not share:
        return []
    return [
        f"{share:.0%} of the micro-steps hold one species alone, where the mutual-information loss "
        "is 0: memory allows no larger ones"
    ]

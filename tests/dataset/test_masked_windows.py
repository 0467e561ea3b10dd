import pickle

import numpy as np
import pytest
import torch
from small_datasets import BINS, SEQ_LENGTH, SPAN, small_genome, small_targets, write_small_dataset
from small_genomes import small_genome as trackless_genome

from spacescale.bases_config import BasesConfig
from spacescale.dataset.loader import TrainingWindows
from spacescale.dataset.masked_windows import (
    NO_ROW,
    MaskedWindows,
    Masks,
    about_bases,
    masked_evaluation_batches,
    windows_to_score,
)
from spacescale.dataset.reader import SpeciesData
from spacescale.dataset.sampler import SampleOrder
from spacescale.genome import dna
from spacescale.genome.intervals import Interval

STEPS, PER_STEP = 20, 8


def windows_of_two_splits() -> list[Interval]:
    """Tiles of a contig with a held-out stretch between what trains, and some of another."""
    tiles = [("chrI", start) for start in range(0, 23 * SPAN, SPAN)]
    tiles += [("chrII", start) for start in range(0, 4 * SPAN, SPAN)]
    return [
        Interval(chrom, start, start + SPAN, "valid" if 8 <= start // SPAN < 12 else "train")
        for chrom, start in tiles
    ]


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    intervals = windows_of_two_splits()
    targets = small_targets()[: len(intervals)]
    found = {}
    for seed, name in enumerate(("finch", "moth")):
        genome = small_genome(seed)
        genome[0][700:760] = dna.N
        path = write_small_dataset(folder / name, targets, intervals, genome)
        found[name] = SpeciesData.open(path)
    return found


def order(datasets, micro_batch_size=PER_STEP, world=1, seed=0):
    counts = {name: len(data.rows("train")) for name, data in datasets.items()}
    return SampleOrder(seed, counts, 1.0, micro_batch_size, world, 3, True)


def masked(datasets, rank=0, world=1, accumulation=1, seed=0, **settings):
    micro_batch = PER_STEP // world // accumulation
    masks = Masks(BasesConfig(**settings), STEPS, accumulation, seed)
    of_rank = order(datasets, micro_batch, world, seed)
    return MaskedWindows(datasets, of_rank, rank, SEQ_LENGTH, 0, False, masks)


JOINT = {"schedule": "joint", "mask_windows": 0.6, "rate": 0.3}


def test_clean_bases_and_labels_are_those_of_the_plain_windows(datasets):
    plain = TrainingWindows(datasets, order(datasets), 0, SEQ_LENGTH, 0)
    windows = masked(datasets, **JOINT)
    flipped = hidden_bases = 0
    for step in range(STEPS):
        for name, part in windows[step].items():
            clean, hidden = plain[step][name], part.hidden
            assert torch.equal(part.targets, clean.targets)
            assert torch.equal(part.rows, clean.rows)
            masked_rows = list(hidden.windows)
            truth = clean.codes[masked_rows]
            assert torch.equal(truth.flatten()[hidden.places].long(), hidden.bases)
            others = torch.ones_like(truth, dtype=torch.bool)
            others.view(-1)[hidden.places] = False
            assert torch.equal(part.codes[masked_rows][others], truth[others])
            rest = [row for row in range(len(clean.codes)) if row not in hidden.windows]
            assert torch.equal(part.codes[rest], clean.codes[rest])
            assert bool((hidden.bases < dna.N).all())
            hidden_bases += len(hidden.places)
            flipped += len(masked_rows)
    assert hidden_bases > 1000 and flipped > 50


def test_masks_turn_with_the_window(datasets):
    """With and without reverse complements the same bases of the genome are hidden."""
    forward = masked(datasets, **JOINT)
    forward.order = SampleOrder(0, forward.order.num_windows, 1.0, PER_STEP, 1, 3, False)
    turned = masked(datasets, **JOINT)
    seen = 0
    for step in range(STEPS):
        draws = turned.order.draws(step, 0)
        for name in datasets:
            a, b = forward[step][name], turned[step][name]
            assert a.hidden.windows == b.hidden.windows
            mine = [draw for draw in draws if draw.species == name]
            for place, row in enumerate(a.hidden.windows):
                one, other = a.codes[row].numpy(), b.codes[row].numpy()
                if mine[row].reverse_complement:
                    other = dna.reverse_complement(other)
                    seen += 1
                assert np.array_equal(one, other), (step, name, place)
    assert seen > 20


def test_only_bases_that_may_train_are_hidden(datasets):
    windows = masked(datasets, schedule="joint", mask_windows=1, rate=0.9, masked_share=1,
                     random_share=0)  # fmt: skip
    windows.order = SampleOrder(0, windows.order.num_windows, 1.0, PER_STEP, 1, 3, False)
    held_out = 0
    for step in range(STEPS):
        draws = windows.order.draws(step, 0)
        for name, data in datasets.items():
            part = windows[step][name]
            mine = [draw for draw in draws if draw.species == name]
            for row, draw in enumerate(mine):
                stored = data.sequence(int(part.rows[row]), SEQ_LENGTH, draw.shift_bp)
                may, _ = about_bases(data, int(part.rows[row]), SEQ_LENGTH, "train", draw.shift_bp)
                hidden = part.codes[row].numpy() == dna.HIDDEN
                assert not hidden[~may].any() and not hidden[stored == dna.N].any()
                assert hidden[may & (stored < dna.N)].mean() > 0.7
                held_out += int((~may & (stored < dna.N)).sum())
    assert held_out > 100  # flanks do reach into what is held out


def test_what_a_split_may_use_is_told_base_by_base(datasets):
    data = datasets["finch"]
    row = 7  # the last before the held-out stretch; its right flank reaches into that
    may, repeats = about_bases(data, row, SEQ_LENGTH, "train")
    margin = (SEQ_LENGTH - SPAN) // 2
    assert may[: margin + SPAN].all() and not may[margin + SPAN :].any()
    assert not repeats.any()
    may, _ = about_bases(data, 0, SEQ_LENGTH, "train")
    assert not may[:margin].any() and may[margin:].all()  # before the contig's first base


@pytest.mark.parametrize(("world", "accumulation"), [(2, 1), (1, 2), (4, 2)])
def test_windows_and_masks_do_not_depend_on_how_they_are_dealt(datasets, world, accumulation):
    settings = {"untracked": 0.3, "first_share": 0.25, "mask_windows": 0.5}

    def of_step(step, world, accumulation):
        found = []
        for micro in range(step * accumulation, (step + 1) * accumulation):
            for rank in range(world):
                windows = masked(datasets, rank, world, accumulation, **settings)
                for name, part in windows[micro].items():
                    by_window = part.hidden.places // SEQ_LENGTH
                    for row, codes in enumerate(part.codes):
                        labels = []
                        if row in part.hidden.windows:
                            own = by_window == part.hidden.windows.index(row)
                            labels = part.hidden.bases[own].tolist()
                        found.append((name, codes.tolist(), labels))
        return sorted(found)

    for step in (0, 4, 5, 11):
        assert of_step(step, world, accumulation) == of_step(step, 1, 1), step


def test_all_ranks_know_how_many_windows_are_masked(datasets):
    ranks = [masked(datasets, rank, 2, **JOINT) for rank in range(2)]
    for step in range(STEPS):
        parts = [windows[step] for windows in ranks]
        for name in parts[0]:
            counts = [len(part[name].hidden.windows) for part in parts]
            assert [part[name].hidden.on_all_ranks for part in parts] == [sum(counts)] * 2


def test_windows_without_tracks_lie_anywhere_and_have_no_targets(datasets):
    windows = masked(datasets, first_share=0.5, untracked=0.2)
    for name, part in windows[0].items():  # bases alone
        assert part.rows.tolist() == [NO_ROW] * len(part.codes)
        assert part.targets.shape[1:] == (BINS, 3) and part.targets.isnan().all()
        assert len(part.hidden.windows) == len(part.codes) == part.hidden.on_all_ranks
        assert name in datasets
    later = [windows[step] for step in range(10, STEPS)]
    rows = torch.cat([part.rows for batch in later for part in batch.values()])
    assert 0.05 < (rows == NO_ROW).float().mean() < 0.4
    for batch in later:
        for part in batch.values():
            without = np.flatnonzero(part.rows == NO_ROW)
            assert set(without) <= set(part.hidden.windows)
            assert torch.equal(part.targets.isnan().all(2).all(1), part.rows == NO_ROW)


def test_bases_first_and_then_profiles_without_any_mask(datasets):
    windows = masked(datasets, schedule="first", first_share=0.5)
    plain = TrainingWindows(datasets, order(datasets), 0, SEQ_LENGTH, 0)
    for name, part in windows[9].items():
        assert len(part.hidden.windows) == len(part.codes)
        assert torch.equal(part.rows, plain[9][name].rows)  # with nothing untracked
    for name, part in windows[10].items():
        assert not part.hidden.windows and not part.hidden.on_all_ranks
        assert torch.equal(part.codes, plain[10][name].codes)


def test_windows_are_pickled_with_their_masks(datasets):
    windows = masked(datasets, untracked=0.2, **JOINT)
    other = pickle.loads(pickle.dumps(windows))
    assert type(other) is MaskedWindows and len(pickle.dumps(windows)) < 20_000
    for name, part in windows[5].items():
        assert torch.equal(part.codes, other[5][name].codes)
        assert torch.equal(part.hidden.places, other[5][name].hidden.places)


def test_labels_of_the_control_are_those_of_shuffled_bases(datasets):
    honest, control = (
        masked(datasets, shuffle_labels=shuffled, **JOINT)[3]["finch"] for shuffled in (False, True)
    )
    assert torch.equal(honest.codes, control.codes)
    assert torch.equal(honest.hidden.places, control.hidden.places)
    agree = (honest.hidden.bases == control.hidden.bases).float().mean()
    assert 0.1 < agree < 0.5


def test_scored_masks_are_those_of_every_run(datasets):
    data, bases = datasets["finch"], BasesConfig(rate=0.3)
    rows = data.rows("valid")
    one = list(masked_evaluation_batches(data, rows, SEQ_LENGTH, 4, "valid", bases))
    shuffled = BasesConfig(rate=0.3, shuffle_labels=True, mask_windows=0.1)
    by_two = list(masked_evaluation_batches(data, rows, SEQ_LENGTH, 2, "valid", shuffled))
    assert torch.equal(torch.cat([b.codes for b in one]), torch.cat([b.codes for b in by_two]))
    assert torch.equal(
        torch.cat([b.hidden.bases for b in one]), torch.cat([b.hidden.bases for b in by_two])
    )
    for batch in one:
        assert batch.hidden.windows == tuple(range(len(batch.codes)))
        assert (batch.codes.flatten()[batch.hidden.places] == dna.HIDDEN).all()  # none is shown
        for place, row in enumerate(batch.rows.tolist()):
            may, _ = about_bases(data, row, SEQ_LENGTH, "valid")
            inside = batch.hidden.places // SEQ_LENGTH == place
            assert may[(batch.hidden.places[inside] % SEQ_LENGTH).numpy()].all()


def test_a_batch_moves_with_what_it_hides(datasets):
    part = masked(datasets, **JOINT)[0]["finch"]
    moved = part.to(torch.device("meta"))
    assert moved.hidden.places.is_meta and moved.codes.is_meta
    assert moved.hidden.windows == part.hidden.windows


@pytest.fixture(scope="module")
def genome(tmp_path_factory):
    """tiny, without tracks: chrI and chrM train, with repeats and a stretch of N."""
    return trackless_genome(tmp_path_factory.mktemp("trackless"))


def test_windows_of_a_species_without_tracks_are_all_masked_and_lie_where_it_may_train(
    datasets, genome
):
    both = {"finch": datasets["finch"], "tiny": genome}
    counts = {"finch": len(datasets["finch"].rows("train")), "tiny": 10}
    masks = Masks(BasesConfig(schedule="joint", mask_windows=0, rate=0.3), STEPS, 1, 0)
    windows = MaskedWindows(
        both, SampleOrder(0, counts, 1.0, PER_STEP, 1, 3, True), 0, SEQ_LENGTH, 0, False, masks
    )
    again = pickle.loads(pickle.dumps(windows))
    in_repeats = seen = 0
    for step in range(STEPS):
        draws = [draw for draw in windows.order.draws(step, 0) if draw.species == "tiny"]
        part, clean = windows[step]["tiny"], windows[step]["finch"]
        assert not clean.hidden.windows and bool((clean.rows >= 0).all())
        assert part.hidden.windows == tuple(range(len(draws))) and part.targets.shape[1:] == (0, 0)
        assert torch.equal(part.codes, again[step]["tiny"].codes)
        truth = part.codes.flatten().index_copy(
            0, part.hidden.places, part.hidden.bases.to(torch.uint8)
        )
        for draw, codes in zip(draws, truth.view_as(part.codes).numpy(), strict=True):
            chrom, _, place = windows.place(draw).partition(":")
            start, end = map(int, place.split("-"))
            assert genome.in_split("train", chrom, start, end).all()
            stored = genome.codes(chrom, start, end)
            expected = dna.reverse_complement(stored) if draw.reverse_complement else stored
            assert np.array_equal(codes, expected)
            seen += len(codes)
        in_repeats += int(part.hidden.in_repeats.sum())
    assert seen > 10_000 and 0.03 < in_repeats / seen < 0.09


def test_scored_windows_of_a_species_without_tracks_are_tiles_of_the_split(genome):
    numbers, bases = windows_to_score(genome, SEQ_LENGTH, "valid"), BasesConfig(rate=0.3)
    assert numbers.tolist() == list(range(2_000 // SEQ_LENGTH))
    one = list(masked_evaluation_batches(genome, numbers, SEQ_LENGTH, 4, "valid", bases))
    by_three = list(masked_evaluation_batches(genome, numbers, SEQ_LENGTH, 3, "valid", bases))
    assert torch.equal(torch.cat([b.codes for b in one]), torch.cat([b.codes for b in by_three]))
    first, place = one[0], one[0].hidden.places
    stored = torch.from_numpy(genome.codes("chrII", 0, SEQ_LENGTH)).long()
    mine = place < SEQ_LENGTH
    assert mine.sum() > 20 and torch.equal(first.hidden.bases[mine], stored[place[mine]])
    for nothing in ("valid", "nowhere"):
        assert not len(windows_to_score(genome, 5_000, nothing))
    assert not list(masked_evaluation_batches(genome, numbers[:0], 5_000, 4, "valid", bases))

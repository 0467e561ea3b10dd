"""Which sequences are read, and how: the same whatever the number of processes."""

import numpy as np
import torch
from small_tasks import examples

from spacescale.genome.dna import N, encode, reverse_complement
from spacescale.tuning.batches import FeatureReader, Reader, TrainingOrder, changed
from spacescale.tuning.encoding import Bases


def mixed() -> Reader:
    return Reader(examples(50, 0, 9, 40)[0], Bases(8))


def by_row(batch):
    """Row → its codes without what fills up."""
    codes = [one for group in batch.groups for one in group.numpy()]
    return dict(zip(batch.rows.tolist(), codes, strict=True))


def test_sequences_are_moved_and_their_ends_are_unknown():
    codes = encode("ACGTACGT")
    assert changed(codes, 2).tolist() == [*encode("GTACGT"), N, N]
    assert changed(codes, -3).tolist() == [N, N, N, *encode("ACGTA")]
    assert changed(codes, 9).tolist() == changed(codes, -9).tolist() == [N] * 8
    np.testing.assert_array_equal(changed(codes, 1, True), reverse_complement(changed(codes, 1)))


def test_a_sequence_fills_whole_bins_whatever_lies_beside_it():
    reader = mixed()
    together = by_row(reader.batch(np.arange(50)))
    for row, codes in enumerate(reader.examples.codes):
        alone = by_row(reader.batch(np.array([row])))[row]
        np.testing.assert_array_equal(alone, together[row])
        assert len(alone) == -(-len(codes) // 8) * 8
        np.testing.assert_array_equal(alone[: len(codes)], codes)
        assert (alone[len(codes) :] == N).all()
    groups = reader.batch(np.arange(50)).groups
    assert len({group.shape[1] for group in groups}) == len(groups)


def test_sequences_of_one_length_stay_as_they_are():
    reader = Reader(examples(6, 0, 13, 13)[0], Bases(8, as_is=13))
    (group,) = reader.batch(np.arange(6)).groups
    assert group.shape == (6, 13)


def test_ranks_share_each_batch_as_one_process_reads_it():
    order = TrainingOrder(mixed(), 7, seed=3, shift_bp=4, reverse_complement=True)
    alone = list(order.epoch(2, 0, 1))
    assert len(alone) == order.steps == 7
    shares = [list(order.epoch(2, rank, 3)) for rank in range(3)]
    for whole, parts in zip(alone, zip(*shares, strict=True), strict=True):
        together = {row: codes for part in parts for row, codes in by_row(part).items()}
        expected = by_row(whole)
        assert together.keys() == expected.keys()
        assert all(np.array_equal(together[row], codes) for row, codes in expected.items())
        assert all(sorted(part.of_all) == sorted(whole.rows) for part in parts)


def test_epochs_differ_and_leave_over_different_sequences():
    order = TrainingOrder(mixed(), 12, seed=3)
    first, second = (
        [row for batch in order.epoch(e, 0, 1) for row in batch.rows.tolist()] for e in (0, 1)
    )
    assert len(set(first)) == len(first) == 48
    assert first != second and set(first) != set(second)
    again = [row for batch in order.epoch(0, 0, 1) for row in batch.rows.tolist()]
    assert again == first


def test_few_sequences_are_read_several_times_in_an_epoch():
    once, order = TrainingOrder(mixed(), 12, seed=3), TrainingOrder(mixed(), 12, 3, least_steps=9)
    assert (order.passes, order.steps) == (3, 12)
    for epoch in (0, 1):
        found = [batch.rows.tolist() for batch in order.epoch(epoch, 0, 1)]
        passes = range(3 * epoch, 3 * epoch + 3)
        assert found == [batch.rows.tolist() for p in passes for batch in once.epoch(p, 0, 1)]


def test_sequences_of_like_length_come_together():
    order = TrainingOrder(mixed(), 7, seed=3)
    groups = [len(batch.groups) for batch in order.epoch(0, 0, 1)]
    drawn = np.random.default_rng(0).permutation(49).reshape(7, 7)
    by_chance = [len(order.reader.batch(rows).groups) for rows in drawn]
    assert np.mean(groups) < np.mean(by_chance) - 1


def test_all_sequences_are_answered_once():
    reader = mixed()
    rows = [b.rows for rank in range(3) for b in reader.in_order(rank, 3)]
    assert sorted(np.concatenate(rows).tolist()) == list(range(50))


def test_few_long_sequences_are_read_at_once():
    reader = Reader(examples(9, 0, 30_000, 30_000)[0], Bases(8))
    assert [len(batch.rows) for batch in reader.in_order(0, 1)] == [2, 2, 2, 2, 1]
    assert [len(batch.rows) for batch in mixed().in_order(0, 1, 65_536)] == [1] * 50


def test_features_stand_for_sequences_of_either_strand():
    reader = mixed()
    features = {flip: torch.arange(100.0).reshape(50, 2) + 1000 * flip for flip in (False, True)}
    kept = FeatureReader(reader.examples, reader.encoding, features)
    order = [TrainingOrder(one, 7, seed=3, reverse_complement=True) for one in (reader, kept)]
    for codes, batch in zip(*(one.epoch(1, 1, 2) for one in order), strict=True):
        (found,) = batch.groups
        assert sorted(codes.rows) == sorted(batch.rows)
        assert sorted(codes.of_all) == sorted(batch.of_all)
        given = by_row(codes)
        for row, value in zip(batch.rows.tolist(), found.tolist(), strict=True):
            own = reader.examples.codes[row]
            turned = not np.array_equal(given[row][: len(own)], own)
            assert value == features[turned][row].tolist()


def test_the_other_strand_is_turned_before_it_is_filled_up():
    reader = Reader(examples(1, 0, 13, 13)[0], Bases(8))
    (group,) = reader.batch(np.array([0]), changes={0: (0, True)}).groups
    expected = [*reverse_complement(reader.examples.codes[0]), N, N, N]
    assert group[0].tolist() == expected


def test_all_sequences_can_have_one_length():
    """So that every process has as many groups of each batch, and BatchNorm sees all of them."""
    order = TrainingOrder(Reader(examples(50, 0, 9, 40)[0], Bases(8, least=40)), 7, seed=3)
    for rank in range(3):
        assert all(
            [tuple(g.shape[1:]) for g in batch.groups] == [(40,)]
            for batch in order.epoch(0, rank, 3)
        )

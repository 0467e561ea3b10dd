"""What frozen fresh weights take BatchNorm's statistics from."""

import numpy as np
import pytest
import torch
from tiny_models import tiny_model

from spacescale.tasks.task import Examples
from spacescale.tuning import starts
from spacescale.tuning.batches import Reader
from spacescale.tuning.encoding import Bases


def reader(number, length):
    random = np.random.default_rng(0)
    codes = list(random.integers(0, 4, (number, length), dtype=np.uint8))
    return Reader(Examples(codes, np.zeros(number), []), Bases(8))


def measured(monkeypatch, number, length):
    """The sequences of the one pass."""
    passes, space = [], tiny_model()
    embed = space.embed
    monkeypatch.setattr(space, "embed", lambda x, *of: passes.append(x) or embed(x, *of))
    starts.measure_batchnorm(space, "finch", reader(number, length))
    (found,) = passes
    return found


def test_short_sequences_are_taken_as_ever(monkeypatch):
    found = measured(monkeypatch, 20, 24)
    assert torch.equal(found, torch.from_numpy(np.stack(reader(20, 24).examples.codes)))


@pytest.mark.parametrize("bases, number", [(24 * 20, 20), (24 * 20 - 1, 19), (24 * 3, 3), (8, 1)])
def test_no_more_bases_are_embedded_at_once_than_are_fixed(monkeypatch, bases, number):
    monkeypatch.setattr(starts, "BASES_MEASURED", bases)
    found = measured(monkeypatch, 20, 24)
    assert found.shape == (number, 24)
    codes = np.stack(reader(20, 24).examples.codes)
    if number > 1:  # from all over the split, not its first ones
        assert np.array_equal(found[[0, -1]].numpy(), codes[[0, 19]])


def test_the_bound_leaves_as_many_sequences_of_1024_bp_as_there_were():
    assert starts.BASES_MEASURED // 1024 == starts.SEQUENCES_MEASURED

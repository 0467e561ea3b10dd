"""What is cut off train to validate."""

import numpy as np
import pytest
from task_files import dna, write_splits

from spacescale.errors import UserError
from spacescale.genome.dna import encode, reverse_complement
from spacescale.tasks.read_task import read_task
from spacescale.tasks.task import Examples
from spacescale.tasks.validation_cut import cut_validation, joint_groups


def examples(sequences, targets=None, groups=()):
    number = len(sequences)
    return Examples(
        [encode(sequence) for sequence in sequences],
        np.zeros((number, 1), np.float32) if targets is None else np.array(targets),
        list(map(str, range(number))),
        tuple(groups),
    )


def many(groups=()):
    """300 sequences of class 0 and 100 of class 1."""
    return examples([dna(i) for i in range(400)], [0] * 300 + [1] * 100, groups)


def test_each_class_in_its_share_and_nothing_is_lost():
    train, valid = cut_validation(many(), "classes", 0.1, seed=0)
    assert np.bincount(valid.targets).tolist() == [30, 10]
    assert np.bincount(train.targets).tolist() == [270, 90]
    assert sorted(train.names + valid.names) == sorted(many().names)
    place = int(valid.names[7])
    np.testing.assert_array_equal(valid.codes[7], encode(dna(place)))
    assert valid.targets[7] == (place >= 300)


def test_the_seed_decides():
    first, again, other = (cut_validation(many(), "classes", 0.1, seed)[1] for seed in (3, 3, 4))
    assert first.names == again.names != other.names


def test_values_are_cut_as_one():
    data = examples([dna(i) for i in range(50)])
    train, valid = cut_validation(data, "values", 0.2, seed=0)
    assert (len(train), len(valid)) == (40, 10)
    assert valid.targets.shape == (10, 1)


def test_equal_sequences_reverse_complements_and_groups_stay_together():
    a, b, c, d = (dna(i) for i in range(4))
    back = "".join("ACGTN"[code] for code in reverse_complement(encode(a)))
    assert joint_groups(examples([a, b, back, a, c])).tolist() == [0, 1, 0, 0, 2]
    # b joins the group of c, which joins that of d, through its other rows
    chained = examples([d, c, b, c, a, back], groups=["z", "y", "x", "z", "w", "v"])
    assert joint_groups(chained).tolist() == [0, 0, 1, 0, 2, 2]


def test_long_chains_become_one_group():
    number = 60
    sequences = [dna((i + 1) // 2) for i in range(number)]
    groups = [str(i // 2) for i in range(number)]
    order = np.random.default_rng(0).permutation(number)
    chained = examples([sequences[i] for i in order], groups=[groups[i] for i in order])
    assert set(joint_groups(chained).tolist()) == {0}


@pytest.mark.parametrize("seed", range(5))
def test_no_group_is_torn(seed):
    groups = [str(i // 7) for i in range(400)]
    train, valid = cut_validation(many(groups), "classes", 0.25, seed)
    assert not set(train.groups) & set(valid.groups)
    assert 85 <= len(valid) <= 100


def test_a_class_always_keeps_a_sequence_to_train_on():
    data = examples([dna(i) for i in range(5)], [0, 0, 0, 0, 1])
    train, valid = cut_validation(data, "classes", 0.9, seed=0)
    assert sorted(train.targets.tolist()) == [0, 1] and valid.targets.tolist() == [0, 0, 0]


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_shares_that_are_none(share):
    with pytest.raises(UserError, match=r"valid_share .*: expected more than 0 and less than 1"):
        cut_validation(many(), "classes", share, seed=0)


def test_too_few_sequences_to_cut():
    with pytest.raises(UserError, match=r"valid_share 0.1 of 2 training .* holds no whole group"):
        cut_validation(examples([dna(1), dna(2)]), "values", 0.1, seed=0)


def test_a_task_that_is_too_small_to_cut_is_named(tmp_path):
    for split in ("train", "test"):
        lines = "".join(f"{dna(i)},{i}\n" for i in range(2))
        (tmp_path / f"{split}.csv").write_text("sequence,label\n" + lines)
    with pytest.raises(UserError, match=f"{tmp_path}: no file validates, and valid_share 0.1 of 2"):
        read_task(tmp_path)


def test_a_task_tells_what_was_cut(tmp_path):
    rows = [(dna(i), i % 2) for i in range(40)]
    write_splits(tmp_path, train=rows, test=rows[:2])
    task = read_task(tmp_path, valid_share=0.2, seed=5)
    assert {split: len(one) for split, one in task.splits.items()} == {
        "train": 32, "valid": 8, "test": 2,
    }  # fmt: skip
    (note,) = task.notes
    assert note.startswith("no file validates: 8 of 40 training sequences were cut off (share 0.2")
    assert "seed 5" in note
    write_splits(tmp_path, dev=rows[:3])
    assert len(read_task(tmp_path).splits["valid"]) == 3

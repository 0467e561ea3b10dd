"""What of its training a search leaves open: data that are not given, and earlier weights."""

import json
from pathlib import Path

import numpy as np
import pytest
from made_up_runs import checkpoint_of, genome_of
from small_datasets import small_windows, write_small_dataset

from spacescale.checkpoint import layout
from spacescale.checkpoint.identity import beginning_of
from spacescale.contamination.report import contamination
from spacescale.contamination.seen import read_training, seen_windows
from spacescale.errors import UserError
from spacescale.tasks.read_task import read_task
from spacescale.tuning.seen import read_seen, seen_of

OLD = Path("runs/old")  # as a user named it


def began_with(old, **more):
    return beginning_of(OLD, old) | more


@pytest.fixture
def old(data, tmp_path):
    """A checkpoint of finch alone."""
    return checkpoint_of(tmp_path / "old", data, 3, ("finch",))


def test_earlier_data_are_named_unless_they_are_given(data, old, tmp_path):
    run = checkpoint_of(tmp_path / "run", data, 3, ("moth",), began_with=began_with(old))
    training = read_training(run)
    seen, gaps = seen_windows(training, [])
    assert list(seen) == ["moth"] and seen["moth"].times.sum() == 12
    assert (gaps.not_searched, gaps.not_known, gaps.uncounted) == (["finch"], [], [])
    seen, gaps = seen_windows(training, [data])
    assert (gaps.not_searched, gaps.not_known, gaps.uncounted) == ([], [], ["finch"])
    assert seen["finch"].times.tolist() == [1] * 23 and not seen["finch"].counted
    assert seen["moth"].times.sum() == 12 and seen["moth"].counted


def test_species_that_were_kept_are_named_unless_they_are_given(data, old, tmp_path):
    """Also by a run of an earlier version, which kept their names alone."""
    words = (tmp_path / "run", data, 3, ("moth",), ("finch",))
    training = read_training(checkpoint_of(*words, began_with=began_with(old)))
    seen, gaps = seen_windows(training, [])
    assert list(seen) == ["moth"] and seen["moth"].times.sum() == 12
    assert gaps.not_searched == ["finch"]
    without = read_training(forgetful(training.source))
    for one in (training, without):
        seen, gaps = seen_windows(one, [data])
        assert gaps.not_searched == [] and gaps.uncounted == ["finch"]
        assert seen["moth"].times.sum() == 12 and not seen["finch"].counted
    assert seen_windows(without, [])[1].not_searched == ["finch"]


def forgetful(checkpoint):
    """Make a checkpoint what an earlier version wrote."""
    state = layout.read_state(checkpoint)
    del state["began_with"]
    (checkpoint / layout.STATE).write_text(json.dumps(state))
    layout.write_manifest(checkpoint)
    return checkpoint


def test_of_a_species_that_earlier_weights_read_too_all_windows_count(run, data, tmp_path):
    more = checkpoint_of(tmp_path / "more", data, 0, ("finch",), began_with=began_with(run))
    seen, gaps = seen_windows(read_training(more), [])
    assert seen["finch"].times.tolist() == [1] * 23 and gaps.uncounted == ["finch"]
    assert gaps.not_searched == ["moth"]


def test_earlier_data_of_the_same_name_may_be_others(data, tmp_path):
    windows = small_windows()[1:]
    targets = np.ones((len(windows), 8, 3), "f2")
    write_small_dataset(tmp_path / "finch", windows=windows, targets=targets, genome=genome_of(1))
    old = checkpoint_of(tmp_path / "old", tmp_path, 3, ("finch",))
    run = checkpoint_of(tmp_path / "run", data, 3, ("finch",), began_with=began_with(old))
    seen, gaps = seen_windows(read_training(run), [])
    assert seen["finch"].counted and gaps.not_searched == ["finch as runs/old read it"]
    with pytest.raises(UserError, match=r"its windows and splits are not those that .*run"):
        seen_windows(read_training(run), [tmp_path / "finch"])
    other = checkpoint_of(tmp_path / "other", data, 3, ("moth",), began_with=began_with(old))
    with pytest.raises(UserError, match="finch: its windows and splits are not those"):
        seen_windows(read_training(other), [data])
    forgot = began_with(old, data_splits={"finch": None})
    forgot = checkpoint_of(tmp_path / "forgot", data, 3, ("finch",), began_with=forgot)
    gaps = seen_windows(read_training(forgot), [])[1]
    assert gaps.not_known == ["whether runs/old read these windows of finch"]
    assert gaps.not_searched == [] and gaps.uncounted == ["finch"]


def test_what_earlier_weights_began_with_counts_as_far_as_it_was_kept(data, old, tmp_path):
    first = began_with(old, path="runs/first", data_manifests={"wren": None}, data_splits={})
    second = checkpoint_of(tmp_path / "second", data, 3, ("finch",), began_with=first)
    third = checkpoint_of(tmp_path / "third", data, 3, ("moth",), began_with=began_with(second))
    gaps = seen_windows(read_training(third), [])[1]
    assert gaps.not_searched == ["finch", "wren"] and gaps.not_known == []
    old = forgetful(old)
    run = checkpoint_of(tmp_path / "run", data, 3, ("moth",), began_with=began_with(old))
    gaps = seen_windows(read_training(run), [])[1]
    assert gaps.not_known == ["whether runs/old began with other weights, and what those had read"]
    gaps = seen_windows(read_training(forgetful(run)), [])[1]
    assert gaps.notes[0].startswith(f"not known: whether {run} began with other weights")


def test_earlier_weights_that_read_anywhere_are_refused(data, old, tmp_path):
    anywhere = began_with(old, reads_anywhere=True)
    run = checkpoint_of(tmp_path / "run", data, 3, ("moth",), began_with=anywhere)
    with pytest.raises(UserError, match="which began with runs/old: was also trained on bases any"):
        read_training(run)


def test_a_table_tells_what_was_not_searched_and_so_does_finetune(data, old, tmp_path):
    """Of a sequence that the earlier weights alone had read."""
    run = checkpoint_of(tmp_path / "run", data, 3, ("moth",), began_with=began_with(forgetful(old)))
    task, out = tmp_path / "task", tmp_path / "seen.tsv"
    task.mkdir()
    letters = ["".join("ACGTN"[code] for code in genome_of(1)[0][i : i + 90]) for i in (0, 200)]
    for split in ("train", "dev", "test"):
        rows = "".join(f"{one},{i}\n" for i, one in enumerate(letters))
        (task / f"{split}.csv").write_text("sequence,label\n" + rows)
    said = contamination(run, [task], out=out)
    assert "at least 0 of 6 sequences" in said and "and at least 0 (0.0 %) are similar" in said
    assert "windows of finch were read and not searched: that a sequence was not found" in said
    seen = seen_of(read_task(task), read_seen(out, run), out)
    assert seen.verdicts == {"none": 2} and seen.unseen.size == 0
    assert "has seen at least 0 of 2 test sequences" in seen.in_words()
    assert "windows of finch not searched, so that the others may have been" in seen.in_words()
    assert "; not known: whether runs/old began with other weights" in seen.in_words()
    out = tmp_path / "all.tsv"
    said = contamination(run, [task], [data], out)
    assert "\n6 of 6 sequences (100.0 %) lie in what training read" in said
    seen = seen_of(read_task(task), read_seen(out, run), out)
    assert (seen.not_searched, seen.share, seen.unseen.tolist()) == ("", 1, [])
    assert "has seen 2 of 2 test sequences" in seen.in_words()

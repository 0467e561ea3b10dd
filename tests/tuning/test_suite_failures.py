"""A suite of which tasks fail: they are named, the others made, on all ranks alike."""

import argparse

from small_models import write_export
from task_files import dna, table, write, write_splits

from spacescale import finetune
from spacescale.errors import UserError
from spacescale.parallel import comm
from spacescale.testing.ranks import run_ranks
from spacescale.tuning.suite import _failure

ROWS = [(dna(i, 30), i % 2) for i in range(8)]
QUICK = ["--seeds", "1", "--epochs", "1", "--min-steps", "0", "--batch", "4", "--strands", "one"]


def write_suite(folder):
    """One good task between one that cannot be read and one that the options do not fit."""
    gap = [*ROWS, (dna(9), 3)]
    write_splits(folder / "a_gap", train=gap, dev=ROWS, test=ROWS)
    for split in ("train", "dev", "test"):
        values = table([(letters, y + 0.5) for letters, y in ROWS], ("sequence", "value"))
        write(folder / "b_values" / f"{split}.csv", values)
    write_splits(folder / "c_good", train=ROWS, dev=ROWS, test=ROWS)
    return folder


def run_suite(tmp_path, *options):
    parser = argparse.ArgumentParser()
    finetune.add_options(parser, several=True)
    words = [write_suite(tmp_path / "suite"), "--weights", write_export(tmp_path / "tiny")]
    words += ["--species", "finch", "--out", tmp_path / "out", "--lr", 1e-3, *QUICK, *options]
    return finetune.run(parser.parse_args([str(word) for word in words]))


def test_the_others_are_made_and_all_failures_named(tmp_path, capsys):
    status = run_suite(tmp_path, "--class-weights", "--beside", "majority")
    out, err = capsys.readouterr()
    assert status == 2
    (error,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert error.startswith("error: 2 of 3 tasks failed, the same command tries again: a_gap: ")
    assert "train.csv:10: label '3'" in error and "; b_values: b_values: class weights" in error
    assert "### c_good" in out and "### b_values" not in out
    assert (tmp_path / "out" / "tiny_full.md").read_text().strip() == out.strip()
    assert "- tiny, full: mean over positions of layer pointwise, species finch, the epoch" in out
    assert (tmp_path / "out" / "c_good" / "rows.jsonl").is_file()


def test_a_single_task_fails_as_it_is(tmp_path, capsys):
    status = run_suite(tmp_path, "--class-weights", "--tasks", "b*")
    assert status == 2
    assert "error: b_values: class weights need classes" in capsys.readouterr().err


def steps_of_two_ranks():
    """What each rank says of steps that rank 1 fails at; that they are still in step."""

    def fail(error):
        if comm.rank() == 1:
            raise error

    def step(error):
        return lambda name, path: comm.on_all(lambda: fail(error))

    told = _failure(step(UserError("no such thing")), "t", None)
    again = _failure(lambda name, path: comm.on_all(lambda: None), "t", None)
    try:
        ended = _failure(step(KeyError("a bug")), "t", None)
    except (comm.OtherRankEnds, KeyError) as error:
        ended = repr(error)
    return told, again, comm.gather(comm.rank()), ended


def test_a_failure_of_one_rank_is_one_of_all_and_a_bug_ends_all():
    first, second = run_ranks(steps_of_two_ranks, 2)
    assert first[:3] == second[:3] == ("rank 1: no such thing", None, [0, 1])
    assert first[3].startswith("OtherRankEnds(") and second[3] == "KeyError('a bug')"

"""Runs that are there become tables, files and figures; what is missing or differs is named."""

import json

import pytest
from made_up_arms import leave_scores, leave_training, make_plan

from spacescale.ablation.compare import Comparison
from spacescale.ablation.results import ArmResult, remarks
from spacescale.ablation.work import Work
from spacescale.errors import UserError

STRENGTHS = {"full": 1.0, "dense_encoder": 0.5, "null": 1.0}


@pytest.fixture
def made(tmp_path):
    """Three arms with two runs each, whose seeds differ a little."""
    plan = make_plan(tmp_path, seeds=2, null=True)
    for member, seed in plan.slots():
        run = plan.compared(member, seed)
        leave_training(run)
        leave_scores(run, STRENGTHS[member.name] + 0.002 * (seed % 2))
    return plan


def test_a_report(made):
    text = Work(made, []).report()
    lines = text.splitlines()
    assert lines[0].split()[:2] == ["arm", "parameters"]
    assert [line.split()[0] for line in lines[1:4]] == ["full", "dense_encoder", "null"]
    assert "0.2" in lines[1] and lines[3].endswith("2, 3")
    assert "5 of 5 intervals hold 0" in text and "one rate, tuned for no arm" in text
    moth = next(i for i, line in enumerate(lines) if line.startswith("moth"))
    assert lines[moth + 3].split() == ["(ridge)", "0.200", "-0.300", "[-0.350,", "-0.250]"]
    found = json.loads((made.out / "results.json").read_text())
    (worse,) = [d for d in found["differences"]
                if (d["arm"], d["species"]) == ("dense_encoder", "all")]  # fmt: skip
    assert worse["interval"][0] < worse["difference"] < worse["interval"][1] < 0
    assert worse["p"] <= worse["p_corrected"] < 0.05
    assert [arm["seconds_per_step"] for arm in found["arms"]] == pytest.approx([0.2] * 3)
    assert found["arms"][2]["runs"].keys() == {"2", "3"}
    markdown = (made.out / "results.md").read_text()
    assert "| moth | cage | 1 | full |" in markdown
    assert "one rate, tuned for no arm.\n" in markdown
    assert "- `dense_encoder`: `model.species_num_experts=0`\n" in markdown
    drawn = {path.name for path in (made.out / "figures").iterdir()}
    experts = {f"experts_{name}.png" for name in STRENGTHS}
    assert drawn == {"differences.png", "tracks.png", "mutual_information.png", *experts}


TUNED = {"0.001": 0.1, "0.002": 0.3, "0.003": 0.2}
OF_RATES = [
    ([(1e-3, {}), (1e-3, {})], ["one rate, tuned for no arm"]),
    ([(2e-3, TUNED), (2e-3, {})], ["one rate, not tuned as those of the others: dense_encoder"]),
    ([(2e-3, TUNED), (2e-3, TUNED)], []),
    (
        [(1e-3, TUNED), (3e-3, TUNED)],
        ["full: the smallest rate of those tried was chosen, 0.001",
         "dense_encoder: the largest rate of those tried was chosen, 0.003"],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("of_arms", "expected"), OF_RATES)
def test_what_is_said_of_rates(tmp_path, of_arms, expected):
    plan = make_plan(tmp_path, seeds=2)
    arms = []
    for member, (rate, tried) in zip(plan.members, of_arms, strict=True):
        runs = [plan.run(member, rate, seed) for seed in member.seeds]
        for run in runs:
            leave_scores(run)
        arms.append(ArmResult(member.costed, rate, tried, runs))
    assert remarks(arms, Comparison({}, {}, [])) == expected


def test_one_arm_alone_has_scores_and_no_differences(tmp_path):
    plan = make_plan(tmp_path, arms=["full"], seeds=1)
    run = plan.compared(plan.members[0], 0)
    leave_training(run)
    leave_scores(run)
    text = Work(plan, []).report()
    assert "one run alone of full" in text
    assert json.loads((plan.out / "results.json").read_text())["differences"] == []
    assert not (plan.out / "figures" / "differences.png").exists()


def test_an_arm_without_runs_is_left_out_and_failures_are_named_last(made):
    member = made.members[1]
    for seed in member.seeds:
        (made.compared(member, seed).scores / "blocks.npz").unlink()
    work = Work(made, [])
    work.failures.append("dense_encoder, rate 0.002, seed 0: out of memory")
    assert "dense_encoder" not in work.report()
    with pytest.raises(UserError, match=r"1 failed, .*: dense_encoder, rate 0.002, seed 0: out of"):
        work.require_no_failures()


def test_nothing_to_hold_against(tmp_path):
    with pytest.raises(UserError, match="full has no scored run"):
        Work(make_plan(tmp_path), []).report()


def test_scores_of_other_windows_are_refused(made):
    run = made.compared(made.members[1], 1)
    leave_scores(run, split="another")
    with pytest.raises(UserError, match=r"dense_encoder.*was scored on other data of finch than"):
        Work(made, []).report()


def test_one_strand_is_not_compared_with_both(made):
    run = made.compared(made.members[1], 1)
    leave_scores(run, both_strands=True)
    with pytest.raises(UserError, match=r"dense_encoder.*from both strands, .*full.* one strand"):
        Work(made, []).report()


def test_damaged_moments_are_named(made):
    run = made.compared(made.members[1], 1)
    (run.scores / "blocks.npz").write_bytes(b"PK\x03\x04 half of it")
    with pytest.raises(UserError, match=r"seed1.*blocks.npz: damaged"):
        Work(made, []).report()


def test_few_blocks_are_spoken_of(tmp_path):
    plan = make_plan(tmp_path, arms=["full"], seeds=1)
    run = plan.compared(plan.members[0], 0)
    leave_training(run)
    leave_scores(run, blocks={"number": 3, "bp": 1000})
    assert "finch: 3 blocks of the genome, fewer than 20" in Work(plan, []).report()


def test_a_run_that_failed_says_why(made):
    run = made.compared(made.members[0], 0)
    run.log.write_text("step 1\nerror: no such place\nshutting down\n")
    assert run.reason() == f"no such place ({run.log})"
    (run.folder / "FAILED").write_text("rank 1: out of memory\nneeds a person\n")
    assert run.reason() == f"rank 1: out of memory ({run.log})"

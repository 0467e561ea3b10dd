"""Whole runs of two processes that skip spikes or replace a damaged window, stopped and resumed."""

import shutil
from pathlib import Path

import pytest
from commands import BIN, SCRIPT, arguments, by_step, deepspeed_command, run
from made_up_checkpoints import flip

from spacescale.dataset.loader import open_datasets
from spacescale.errors import UserError
from spacescale.train.quarantine import HEADER, REPORT

pytestmark = pytest.mark.slow
SPIKY = Path("tests/commands/spiky_pretrain.py")


def train(script, data, output, *more, **changes):
    command = [script if word == SCRIPT else word for word in deepspeed_command()]
    done = run(*command, *arguments(data, output, *more), timeout=900, **changes)
    assert done.returncode == 0, done.stderr
    return done.stdout


def go_back(output, straight, step):
    """A copy of a run as it was when the checkpoint of this step was its newest."""
    shutil.copytree(straight, output)
    back = run(BIN / "spacescale", "checkpoints", output, "back", step)
    assert back.returncode == 0, back.stderr


def assert_alike(output, straight, last):
    """Everything that was logged, and the last checkpoint, bit by bit."""
    found, expected = by_step(output), by_step(straight)
    assert list(found) == list(expected) == [*range(1, last + 1)]
    for step, record in expected.items():
        for name, value in record.items():
            if not name.startswith(("time", "speed/")):
                assert found[step][name] == value, f"step {step}: {name}"
    one, other = (folder / f"checkpoints/step-{last:08d}" for folder in (output, straight))
    for path in other.glob("*.safetensors"):
        assert path.read_bytes() == (one / path.name).read_bytes(), path.name


def test_spikes_are_skipped_and_a_resumed_run_skips_the_same(data, tmp_path):
    """The second is known to be one only from what the checkpoint before it remembers."""
    settings = ["optim.max_steps=72", "run.valid_every=72", "run.save_every=68", "optim.lr=1e-5"]
    settings += ["run.skip_spikes=true"]
    whole, again, plain = tmp_path / "whole", tmp_path / "again", tmp_path / "plain"
    said = train(SPIKY, data, whole, *settings, SPIKES="66 69")
    skipped = [line.partition(":")[0] for line in said.splitlines() if "step was skipped" in line]
    assert skipped == ["step 67", "step 70"], said
    logged = by_step(whole)
    assert [step for step in logged if "spike/skipped" in logged[step]] == [67, 70]
    go_back(again, whole, 68)
    said = train(SPIKY, data, again, *settings, "--resume", "auto", SPIKES="66 69")
    assert "step 70:" in said and "step was skipped" in said
    assert_alike(again, whole, 72)

    # A step that counts moves the weights: else nothing would show that the others were skipped.
    settings[-1] = "run.skip_spikes=false"
    assert "the step counts" in train(SPIKY, data, plain, *settings, SPIKES="66 69")
    assert by_step(plain)[68]["train/loss"] != logged[68]["train/loss"]


def damage_one_window(data):
    """Damage the chunk of one training window of the finch; returns its row."""
    finch = open_datasets([data / "finch"])["finch"]
    file, rows = finch.file_of(int(finch.rows("train")[0])), finch.rows("train").tolist()
    for place in range(10, file.stat().st_size // 2, 50):
        flip(file, place)
        damaged = [row for row in rows if not can_be_read(finch.path, row)]
        if len(damaged) == 1:
            return damaged[0]
        flip(file, place)
    raise AssertionError("no byte damages one training window alone")


def can_be_read(folder, row):
    try:
        open_datasets([folder])["finch"].targets(row)
    except UserError:
        return False
    return True


def test_a_damaged_window_is_replaced_alike_on_all_ranks_and_after_a_stop(data, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    row = damage_one_window(copy)
    last = 40
    settings = [f"optim.max_steps={last}", f"run.valid_every={last}", "run.save_every=2"]
    # A rate at which rounding does not grow: two ranks add in another order than one.
    settings += ["run.keep_last=20", "data.on_damaged=replace", "optim.lr=1e-5"]
    # Masks of dropout differ with the number of ranks.
    settings += [f"model.{name}=0" for name in ("dropout", "attn_dropout", "pos_dropout")]
    whole, again, alone = tmp_path / "whole", tmp_path / "again", tmp_path / "alone"
    said = train(SCRIPT, copy, whole, *settings)
    told = [line for line in said.splitlines() if "replaced by row" in line]
    assert len(told) == 1 and f"row {row} (" in told[0], said
    listed = (whole / REPORT).read_text().splitlines()
    assert listed[0] == HEADER and len(listed) == 2 and listed[1].startswith(f"finch\t{row}\t")
    step = int(told[0].split("step ")[1].split(":")[0])
    assert step > 2

    go_back(again, whole, (step - 1) // 2 * 2)  # the window is drawn again after it
    (again / REPORT).unlink()
    train(SCRIPT, copy, again, *settings, "--resume", "must")
    assert (again / REPORT).read_text() == (whole / REPORT).read_text()
    assert_alike(again, whole, last)

    one_rank = [*settings, "data.micro_batch_size=4"]  # the same windows, all on one rank
    done = run("python", SCRIPT, *arguments(copy, alone, *one_rank), timeout=900)
    assert done.returncode == 0, done.stderr
    assert (alone / REPORT).read_text() == (whole / REPORT).read_text()
    first, other = (by_step(folder)[step]["train/loss"] for folder in (whole, alone))
    assert other == pytest.approx(first, rel=1e-4)  # another window: percents

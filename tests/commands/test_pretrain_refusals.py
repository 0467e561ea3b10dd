"""Bad input to pretrain.py: status 2, one line that names the thing, and nothing left behind.

All cases run in one process that calls `main` again and again, because importing takes seconds.
"""

import fcntl
import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest
from commands import (
    DEEPSPEED_JSON,
    MANY_RUNS,
    TINY,
    arguments,
    make_data,
    run,
    start_pair,
    swap_held_out_moths,
)

pytestmark = pytest.mark.long

GOOD_JSON = {"gradient_clipping": 0.2, "zero_optimization": {"stage": 2, "overlap_comm": False}}


@dataclass
class Place:
    """What a case may use: a folder of its own, the data, and a finished run of one process."""

    folder: Path
    data: Path
    alone: Path
    lock: IO[str] | None = None  # held as long as this is

    @property
    def output(self):
        return self.folder / "run"

    def arguments(self, *more):
        return arguments(self.data, self.output, "optim.max_steps=3", *more)

    def json(self, text):
        path = self.folder / "deepspeed.json"
        path.write_text(text if isinstance(text, str) else json.dumps(text))
        return self.replaced(DEEPSPEED_JSON, path)

    def copied_run(self):
        shutil.copytree(self.alone, self.output)
        return self.output / "checkpoints/step-00000003"

    def replaced(self, old, new, *more):
        return [new if a == old else a for a in self.arguments(*more)]


@dataclass
class Case:
    """`prepare(place)` makes the situation and returns pretrain.py's arguments."""

    name: str
    prepare: Callable[[Place], list]
    message: str


def overridden(*overrides):
    return lambda place: place.arguments(*overrides)


def of_json(**changes):
    config = {k: v for k, v in (GOOD_JSON | changes).items() if v is not None}
    return lambda place: place.json(config)


def no_json(place):
    return place.replaced(DEEPSPEED_JSON, place.folder / "none.json")


def no_data(place):
    return place.replaced(place.data, place.folder / "nothing here")


def no_dataset(place):
    (place.folder / "notes").mkdir()
    (place.folder / "notes/readme.txt").write_text("no data")
    return place.replaced(place.data, place.folder / "notes")


def same_species_twice(place):
    return [*place.arguments("--data"), str(place.data), str(place.data / "moth")]


def holds_run(place):
    place.copied_run()
    return place.arguments()


def locked(place):
    place.output.mkdir()
    place.lock = (place.output / "run.lock").open("w")
    fcntl.flock(place.lock, fcntl.LOCK_EX)
    return place.arguments()


def locked_while_resuming(place):
    place.copied_run()
    place.lock = (place.output / "run.lock").open("w")
    fcntl.flock(place.lock, fcntl.LOCK_EX)
    return place.arguments("--resume", "auto")


def resume_path_missing(place):
    return place.arguments("--resume", str(place.folder / "nowhere"))


def other_tracks(place):
    """Data of the same species with two tracks of the moth's left out."""

    def leave_out(species):
        if species.name == "moth":
            lines = species.targets.read_text().splitlines(keepends=True)
            species.targets.write_text("".join(lines[:3]))

    make_data(place.folder, change=leave_out)
    place.copied_run()
    return place.replaced(place.data, place.folder / "shards", "--resume", "must")


def other_splits(place):
    make_data(place.folder, swap_held_out_moths)
    place.copied_run()
    more = ["optim.max_steps=4", "--resume", "must"]
    return place.replaced(place.data, place.folder / "shards", *more)


def fewer_species(place):
    place.copied_run()
    return place.replaced(place.data, place.data / "finch", "--resume", "must")


def flipped_byte(place):
    path = place.copied_run() / "state-00000.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return place.arguments("--resume", "must")


def truncated(place):
    path = place.copied_run() / "state-00000.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    return place.arguments("--resume", "auto")


def deleted(place):
    (place.copied_run() / "buffers.safetensors").unlink()
    return place.arguments("--resume", "must")


def damaged_elsewhere(place):
    """A damaged checkpoint of another run does not start this one."""
    flipped_byte(place)
    place.output.rename(place.folder / "other")
    return place.arguments("--resume", str(place.folder / "other"))


def another_run(place):
    """A checkpoint from elsewhere must not continue in a folder that holds a run of its own."""
    elsewhere = place.folder / "elsewhere"
    shutil.copytree(place.copied_run(), elsewhere)
    return place.arguments("--resume", str(elsewhere))


def another_seed(place):
    place.copied_run()
    return place.arguments("--resume", "must", "run.seed=5")


def another_scale(place):
    place.copied_run()
    return place.arguments("--resume", "must", "loss.track_scale=none")


def checkpoints_gone(place):
    shutil.rmtree(place.copied_run())
    return place.arguments("--resume", "auto")


def another_metric(place):
    return place.arguments("run.best_metric=valid/pearson_log1p/finhc")


CASES = [
    Case("no --deepspeed", lambda place: TINY, "required: --deepspeed"),
    Case(
        "preset",
        lambda place: place.replaced(TINY[0], "--preset=space_dmo"),
        "unknown preset 'space_dmo' .did you mean 'space_demo'.",
    ),
    Case("section", overridden("optm.lr=1"), "unknown section 'optm' .did you mean 'optim'."),
    Case("field", overridden("optim.warmup=1"), "no field 'warmup' .did you mean 'warmup_steps'."),
    Case("type", overridden("optim.max_steps=many"), "optim.max_steps='many': .*integer"),
    Case("range", overridden("run.keep_last=0"), "run.keep_last=0: .*greater than"),
    Case("heads", overridden("model.heads=5"), "model.dim=48 must be divisible by heads=5"),
    Case("no json", no_json, "none.json: no such DeepSpeed configuration file"),
    Case("broken json", lambda p: p.json('{\n"a": 1,}'), "deepspeed.json: not valid JSON.*line 2"),
    Case("json list", lambda place: place.json([1]), "expected a JSON object, found list"),
    Case("clipping", of_json(gradient_clipping=None), "deepspeed.json: write 'gradient_clipping'"),
    Case("optimizer", of_json(optimizer={"type": "Adam"}), "remove 'optimizer'.*optim"),
    Case(
        "clipping value",
        of_json(gradient_clipping="some"),
        "deepspeed.json: gradient_clipping='some' must be a positive number",
    ),
    Case("experts", of_json(expert_parallel={}), "remove 'expert_parallel'; the parallel.. "),
    Case("stage", of_json(zero_optimization={"stage": 0}), "zero_optimization.stage=0; take 1, 2"),
    Case("no stage", of_json(zero_optimization=None), "zero_optimization.stage=None; take 1, 2"),
    Case(
        "overlap",
        of_json(zero_optimization={"stage": 1, "overlap_comm": True}),
        "set zero_optimization.overlap_comm to false; .*gradients",
    ),
    Case("bf16", of_json(bf16={"enabled": True}), "switch 'bf16' off and use 'torch_autocast'"),
    Case("zero", of_json(zero_optimization=2), "zero_optimization=2 must be an object"),
    Case(
        "word",
        of_json(gradient_accumulation_steps="many"),
        "gradient_accumulation_steps='many' must be a positive whole number",
    ),
    Case(
        "weight",
        overridden('loss.species_weight={"moht": 2}'),
        "loss.species_weight names moht; the data are of finch, moth, perch",
    ),
    Case(
        "importance",
        overridden('data.species_importance={"moht": 2}'),
        "data.species_importance names moht; the data are of finch, moth, perch",
    ),
    Case(
        "no importance",
        overridden('data.species_importance={"moth": 0}'),
        "data.species_importance.moth=0: Input should be greater than 0",
    ),
    Case("paths", overridden("data.paths=[]"), "data.paths comes from --data"),
    Case(
        "accumulation",
        of_json(train_batch_size=3, gradient_accumulation_steps=2),
        "train_batch_size=3 does not divide by 1 processes × gradient_accumulation_steps=2",
    ),
    Case(
        "batch",
        of_json(train_batch_size=8, train_micro_batch_size_per_gpu=3),
        "train_batch_size=8 is not train_micro_batch_size_per_gpu=3",
    ),
    Case("no data", no_data, "nothing here: no such folder"),
    Case("no data set", no_dataset, "notes: no species folder here"),
    Case("twice", same_species_twice, "species 'moth' is given twice: .*moth and .*moth"),
    Case(
        "bin size",
        overridden("model.num_downsamples=4", "model.seq_length=1024"),
        "bins of 32 bp; the model's are 16 bp",
    ),
    Case("length", overridden("model.target_length=32"), "48 bins per window; .* predicts 32"),
    Case("ep_size", overridden("parallel.ep_size=3"), "parallel.ep_size=3 must divide .*.1."),
    Case("holds run", holds_run, "run: holds a run already; continue it with --resume auto"),
    Case("locked", locked, "run: in use by another run; choose another --output"),
    Case("locked resume", locked_while_resuming, "run: in use by another run"),
    Case("must", lambda p: p.arguments("--resume", "must"), "run: no checkpoint to resume from"),
    Case("path", resume_path_missing, "nowhere: no checkpoint to resume from"),
    Case("tracks", other_tracks, "species 'moth' has 4 tracks there, but 2 in the data"),
    Case(
        "splits",
        other_splits,
        "the data set of 'moth' is not the one it was trained on.*"
        "the splits differ, so that windows held out now may have been trained",
    ),
    Case("species", fewer_species, "holds species finch, moth, perch; the data are of finch"),
    Case("byte", flipped_byte, "no sound checkpoint .*state-00000.safetensors: damaged"),
    Case("cut", truncated, r"no sound .*state-00000.safetensors: \d+ bytes, expected \d+"),
    Case("deleted", deleted, "no sound checkpoint .*buffers.safetensors: missing"),
    Case("elsewhere", damaged_elsewhere, "other/.*state-00000.safetensors: damaged"),
    Case("other run", another_run, "run: holds a run, which .*elsewhere.* is not of"),
    Case("seed", another_seed, "step-00000003: run.seed was 0, is now 5; resume with the same"),
    Case("scale", another_scale, r"loss.track_scale was \w+, is now none; resume with the same"),
    Case("gone", checkpoints_gone, r"held checkpoints \(latest, best\) and holds none"),
    Case("metric", another_metric, "run.best_metric=.*finhc .did you mean '.*finch'"),
]  # fmt: skip


def snapshot(folder):
    """Every file below with its content; a lock file is no trace of a run."""
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "run.lock"
    }


@pytest.fixture(scope="module")
def outcomes(data, alone, tmp_path_factory):
    """Case name → status, stderr, files before and after."""
    assert alone[1].returncode == 0, alone[1].stderr
    root = tmp_path_factory.mktemp("cases")
    places, calls = [], []
    for number, case in enumerate(CASES):
        place = Place(root / str(number), data, alone[0])
        place.folder.mkdir()
        places.append(place)
        calls.append([str(argument) for argument in case.prepare(place)])
    before = [snapshot(place.folder) for place in places]
    given, found = root / "calls.json", root / "outcomes.json"
    given.write_text(json.dumps(calls))
    done = run(sys.executable, MANY_RUNS, "spacescale.pretrain", given, found)
    assert done.returncode == 0, done.stderr
    results = json.loads(found.read_text())
    after = [snapshot(place.folder) for place in places]
    return {
        case.name: (*result, old, new)
        for case, result, old, new in zip(CASES, results, before, after, strict=True)
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_is_refused_by_name_in_one_line_and_leaves_nothing(outcomes, case):
    status, stderr, before, after = outcomes[case.name]
    assert status == 2, stderr
    assert "Traceback" not in stderr
    errors = [line for line in stderr.splitlines() if "error: " in line]
    assert len(errors) == 1, stderr
    assert re.search(rf"error: .*{case.message}", errors[0]), errors[0]
    assert after == before


@pytest.fixture(scope="module")
def of_two_ranks(data, tmp_path_factory):
    """Two calls on two ranks, which must not leave a run: their folder, and rank → outcomes."""
    folder = tmp_path_factory.mktemp("two ranks")
    config = folder / "deepspeed.json"
    config.write_text(json.dumps(GOOD_JSON | {"train_batch_size": 3}))
    usual = arguments(data, folder / "run")
    uneven = [config if a == DEEPSPEED_JSON else a for a in usual]
    moth, finch = data / "moth", data / "finch"
    other_settings = [
        [*usual, "--data", finch, moth],
        [*usual, "run.seed=5", "--data", moth, finch],
    ]
    files = [[folder / f"calls-{rank}.json", folder / f"outcomes-{rank}.json"] for rank in (0, 1)]
    for (calls, _), other in zip(files, other_settings, strict=True):
        calls.write_text(json.dumps([uneven, other], default=str))
    ranks = start_pair("spacescale.pretrain", of_rank=files, script=MANY_RUNS)
    try:
        texts = [rank.communicate(timeout=120)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(texts)
    return folder, [json.loads(found.read_text()) for _, found in files]


def test_two_processes_refuse_together_and_say_it_once(of_two_ranks):
    folder, ((first, _), (second, _)) = of_two_ranks
    config = folder / "deepspeed.json"
    message = f"error: {config}: train_batch_size=3 does not divide by 2 processes"
    assert first[0] == second[0] == 2 and message in first[1] and "error:" not in second[1]
    assert not (folder / "run").exists()


def test_ranks_with_other_settings_refuse_before_anything_is_written(of_two_ranks):
    folder, ((_, first), (_, second)) = of_two_ranks
    assert first[0] == second[0] == 2 and "error:" not in second[1]
    assert "run.seed (0 on rank 0, 5 on rank 1)" in first[1]
    order = '["finch", "moth"] on rank 0, ["moth", "finch"] on rank 1'
    assert f"species order ({order})" in first[1]
    assert first[1].count("error: the ranks disagree on ") == 1
    assert not (folder / "run").exists()

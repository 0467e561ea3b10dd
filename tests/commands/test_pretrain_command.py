"""The main job as a user runs it: pretrain, look at it, evaluate, convert, resume, stop."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import zarr
from commands import (
    BIN,
    DEEPSPEED_JSON,
    REPO,
    SCRIPT,
    SPACESCALE,
    SPECIES,
    TINY,
    arguments,
    by_step,
    deepspeed_command,
    environment,
    run,
    run_here,
    start_pair,
)
from made_up_checkpoints import flip
from safetensors.torch import load_file, save_file

from spacescale.checkpoint import layout
from spacescale.checkpoint.consolidate import consolidate
from spacescale.checkpoint.convert import convert
from spacescale.checkpoint.found import find_best
from spacescale.checkpoint.probe import read_probe
from spacescale.dataset.codecs import codec_warning_ignored
from spacescale.dataset.folder import list_files
from spacescale.dataset.loader import evaluation_batches, open_datasets
from spacescale.dataset.manifest import read_manifest, save_manifest
from spacescale.dataset.sampler import SampleOrder
from spacescale.metrics.writer import read_metrics
from spacescale.model.losses import species_losses
from spacescale.objectives.profiles import probe_codes
from spacescale.objectives.species_targets import targets_of
from spacescale.overrides import build_config
from spacescale.parallel.comm import free_port
from spacescale.predict.trained_model import load_trained
from spacescale.presets import EMBEDDED_PRESET

FAULTY = Path("tests/commands/faulty_pretrain.py")
FEW_STEPS = 6  # no window is drawn twice in them


def latest(output):
    return (output / "checkpoints/latest").read_text().strip()


# ---- The run ------------------------------------------------------------------------------------


def test_the_deepspeed_command_trains_on_two_processes_and_logs_what_it_promises(finished):
    output, done = finished
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    logged = by_step(output)
    assert list(logged) == [1, 2, 3, 4, 5, 6]
    assert (output / "DONE").read_text() == "step 6\n"
    everything = {name for record in logged.values() for name in record}
    for species in SPECIES:
        assert f"train/loss/{species}" in everything
        assert f"valid/pearson_log1p/{species}" in logged[6]
        assert f"valid/pearson_raw/{species}" in logged[6]
        counts = [record[f"train/windows/{species}"] for record in logged.values()]
        assert sum(counts) >= 6  # of 24 windows, of each as many
        assert f"valid/pearson_log1p/{species}/cage" in logged[6]
        shares = [logged[6][f"valid_experts/{species}/block0/expert{i}"] for i in range(4)]
        assert sum(shares) == pytest.approx(1)
        shares = [logged[6][f"valid_experts/{species}/decoder/cage/expert{i}"] for i in range(4)]
        assert sum(shares) == pytest.approx(1)
    for step in logged.values():
        assert step["train/loss"] > 0
        assert step["optim/gradient_norm"] > 0
        assert step["speed/windows_per_s"] > 0
        assert step["speed/memory_gib"] > 0
    rates = [step["optim/learning_rate"] for step in logged.values()]
    assert rates[0] < rates[1] and rates[-1] < rates[2]
    assert any(p.stat().st_size > 1000 for p in (output / "tensorboard").glob("events.out.*"))


def test_the_validation_loss_is_trainings_own_definition(finished, data):
    """Logged by two ranks; here, of the last checkpoint, all windows of a species at once."""
    output, _ = finished
    logged, trained = by_step(output), load_trained(output / "checkpoints/step-00000006")
    datasets = open_datasets([data])
    weights = targets_of(datasets, build_config(EMBEDDED_PRESET, []).loss, "cpu")
    for name, of_species in datasets.items():
        rows = of_species.rows("valid")[:8]
        (batch,) = evaluation_batches(of_species, rows, trained.model.config.seq_length, 8)
        targets = {name: trained.track_scale(name).targets(batch.targets)}
        with torch.no_grad():
            output = trained.model({name: batch.codes})
            track_weights = {name: weights[name].track_weights}
            found = species_losses(output, targets, lambda x: x, track_weights=track_weights)
        loss = found[name]
        assert logged[6][f"valid/loss/{name}"] == pytest.approx(float(loss.mean), rel=1e-4)
        since = [(r[f"train/windows/{name}"], r.get(f"train/loss/{name}")) for r in logged.values()]
        seen = [(count, mean) for count, mean in since[3:] if count]
        before = sum(n * mean for n, mean in seen) / sum(n for n, _ in seen)
        gap = before - logged[6][f"valid/loss/{name}"]
        assert logged[6][f"valid/gap/{name}"] == pytest.approx(gap, abs=1e-5)


def test_the_log_on_the_terminal_is_rank_0s_alone_and_names_the_layout(finished):
    output, done = finished
    assert done.stdout.count("step 6/6:") == 1
    assert done.stderr.count("2 processes, expert parallel 2, ZeRO-2, 4 windows per step") == 1
    assert f"saved {output}/checkpoints/step-00000006" in done.stdout


def test_checkpoints_are_complete_named_and_free_of_leftovers(finished):
    output, _ = finished
    folder = output / "checkpoints"
    assert sorted(p.name for p in folder.iterdir()) == [
        "best", "latest", "step-00000003", "step-00000006",
    ]  # fmt: skip
    assert latest(output) == "step-00000006"
    scores = {
        name: json.loads((folder / name / "spacescale.json").read_text())["metrics"][
            "valid/pearson_log1p"
        ]
        for name in ("step-00000003", "step-00000006")
    }
    assert (folder / "best").read_text() == max(scores, key=scores.__getitem__)
    for name in scores:
        layout.verify(folder / name)
    states = sorted(p.name for p in (folder / "step-00000006").glob("state-*"))
    assert states == ["state-00000.safetensors", "state-00001.safetensors"]  # of both processes


def test_training_changed_every_weight(finished):
    output, _ = finished
    before, after = (
        consolidate(output / "checkpoints" / name) for name in ("step-00000003", "step-00000006")
    )
    still = [name for name in after if torch.equal(before[name], after[name])]
    assert not still


# ---- Looking at it, evaluating, converting ------------------------------------------------------


def test_info_describes_the_run(finished):
    done = run(SPACESCALE, "info", finished[0])
    assert done.returncode == 0, done.stderr
    assert "step         6" in done.stdout
    assert "2 processes, expert parallel 2, ZeRO-2" in done.stdout
    for species, tracks in (("finch", 10), ("perch", 6), ("moth", 4)):
        assert f"{species:<12} {tracks} tracks: " in done.stdout


@pytest.mark.long
def test_evaluate_writes_tables_and_figures_of_the_test_windows(finished):
    output, _ = finished
    done = run(SPACESCALE, "evaluate", output)
    assert done.returncode == 0, done.stderr
    folder = output / "evaluation/test"
    scores = json.loads((folder / "metrics.json").read_text())
    for species, tracks in (("finch", 10), ("perch", 6), ("moth", 4)):
        lines = (folder / species / "acc.txt").read_text().splitlines()
        assert len(lines) == 1 + tracks
        assert -1 <= scores["species"][species]["pearson_log1p"] <= 1
        assert species in done.stdout
    drawn = {p.name for p in (folder / "figures").glob("*.png") if p.stat().st_size > 1000}
    expected = {"pearson_per_assay.png", "expert_use.png", "loss_curves.png"}
    expected |= {"mutual_information.png"}
    assert drawn >= expected | {f"tracks_{name}.png" for name in SPECIES}


@pytest.mark.usefixtures("blank_figures")
def test_evaluating_one_process_gives_the_scores_that_two_logged_while_training(finished):
    output, _ = finished
    checkpoint = output / "checkpoints/step-00000006"
    done = run_here(
        SPACESCALE, "evaluate", checkpoint, "--split", "valid", "--out", output / "again"
    )
    assert done.returncode == 0, done.stderr
    scores = json.loads((output / "again/metrics.json").read_text())["species"]
    logged = by_step(output)[6]
    for species in SPECIES:
        for kind in ("pearson_log1p", "pearson_raw"):
            expected = logged[f"valid/{kind}/{species}"]
            assert scores[species][kind] == pytest.approx(expected, abs=1e-5)


LOAD_WITHOUT_DEEPSPEED = """
import sys
sys.modules["deepspeed"] = sys.modules["zarr"] = None  # importing them now fails
import torch
from safetensors.torch import load_file, save_file
from spacescale.model import Space
model = Space.from_pretrained(sys.argv[1])
with torch.no_grad():
    save_file(model(load_file(sys.argv[2])).prediction, sys.argv[3])
"""


@pytest.mark.long
def test_converted_weights_load_without_deepspeed_and_predict_the_same(finished, tmp_path):
    output, _ = finished
    done = run(SPACESCALE, "convert", output, "--out", tmp_path / "export")
    assert done.returncode == 0, done.stderr
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["export"]
    tracks = sorted(p.name for p in (tmp_path / "export/tracks").iterdir())
    assert tracks == sorted(f"{name}.tsv" for name in SPECIES)
    codes, predicted = (tmp_path / f"{name}.safetensors" for name in ("codes", "predicted"))
    best = find_best(output)
    shape = layout.read_config(best, layout.read_state(best)).space
    save_file(probe_codes(shape, shape.species), codes)
    words = (sys.executable, "-c", LOAD_WITHOUT_DEEPSPEED, tmp_path / "export", codes, predicted)
    loaded = run(*words)
    assert loaded.returncode == 0, loaded.stderr
    live, plain = read_probe(best / "probe.safetensors").predictions, load_file(predicted)
    assert list(plain) == list(live)
    for species, expected in live.items():
        tolerance = 1e-5 * float(expected.max())
        torch.testing.assert_close(plain[species], expected, rtol=0, atol=tolerance)


# ---- Stopping and going on ----------------------------------------------------------------------


@pytest.mark.long
def test_a_resumed_run_ends_with_bit_identical_weights_under_another_launcher(
    finished, data, tmp_path
):
    whole, _ = finished
    output = tmp_path / "run"
    shutil.copytree(whole, output)
    flip(output / "checkpoints/step-00000006/state-00001.safetensors")
    (output / "checkpoints/latest").write_bytes(b"\xff\xfe")
    (output / "checkpoints/best").unlink()
    damaged_log = (output / "metrics.jsonl").read_bytes() + b"\xff\n[1]\n"
    (output / "metrics.jsonl").write_bytes(damaged_log)
    (output / "DONE").rename(output / "FAILED")
    torchrun = [BIN / "torchrun", "--nproc-per-node", 2, "--master-port", free_port()]
    done = run(*torchrun, SCRIPT, *arguments(data, output, "--resume", "must"))
    assert done.returncode == 0, done.stderr
    assert "step 3/6" not in done.stdout and "step 4/6" in done.stdout
    folder = output / "checkpoints"
    said = [line for line in done.stderr.splitlines() if "passed over" in line]
    assert len(said) == 1 and "step-00000006/state-00001.safetensors: damaged" in said[0]
    assert said[0].endswith(f"going on from {folder}/step-00000003")
    assert sorted(p.name for p in folder.iterdir()) == [
        "best", "latest", "step-00000003", "step-00000006", "step-00000006.aside-1",
    ]  # fmt: skip
    assert latest(output) == "step-00000006"
    assert (output / "DONE").exists() and not (output / "FAILED").exists()

    first, second = (folder / "checkpoints/step-00000006" for folder in (whole, output))
    weights, again = consolidate(first), consolidate(second)
    assert list(weights) == list(again)
    for name, tensor in weights.items():
        assert torch.equal(tensor, again[name]), name
    for name in ("probe.safetensors", "rng-00000.safetensors", "rng-00001.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name

    expected, found = by_step(whole), by_step(output)
    assert list(found) == [1, 2, 3, 4, 5, 6]
    for step, record in expected.items():
        for name, value in record.items():
            if not name.startswith(("time", "speed/")):
                assert found[step][name] == value, f"step {step}: {name}"


def poison(data, folder, rows):
    """Copy the data and put an inf into the targets of these rows (species → rows)."""
    shutil.copytree(data, folder)
    for species, chosen in rows.items():
        with codec_warning_ignored():
            targets = zarr.open_array(folder / species / "targets", mode="r+")
        for row in chosen:
            values = np.asarray(targets[int(row)])
            values[3, 0] = np.inf
            targets[int(row)] = values
        manifest, _ = read_manifest(folder / species)
        files = list_files(folder / species)
        save_manifest(folder / species, manifest.model_copy(update={"files": files}))
    return folder


def draws_of_the_tiny_run(datasets, num_steps, world_size):
    """(step from 1, rank) → {(species, row)} as the sampler deals them out."""
    config = build_config("space_demo", TINY[1:])
    rows = {name: d.rows("train") for name, d in datasets.items()}
    order = SampleOrder(
        seed=config.run.seed,
        num_windows={name: len(r) for name, r in rows.items()},
        balance=config.data.species_balance,
        micro_batch_size=config.data.micro_batch_size,
        world_size=world_size,
        shift_bp=config.data.shift_bp,
        reverse_complement=config.data.reverse_complement,
    )
    return {
        (step + 1, rank): {(d.species, int(rows[d.species][d.window])) for d in draws}
        for step in range(num_steps)
        for rank in range(world_size)
        if (draws := order.draws(step, rank))
    }


@pytest.fixture(scope="module")
def stopped(data, tmp_path_factory):
    """An endless run of two ranks whose second step meets a bad window on rank 1, which is sent
    SIGTERM after some steps: (folder, ranks, their texts).
    """
    draws = draws_of_the_tiny_run(open_datasets([data]), FEW_STEPS, 2)
    species, row = min(draws[2, 1])
    bad = [place for place, windows in draws.items() if (species, row) in windows]
    assert bad == [(2, 1)], "the tests need a window that is drawn once"
    folder = tmp_path_factory.mktemp("stopped")
    poisoned, output = poison(data, folder / "shards", {species: [row]}), folder / "run"
    endless = ["optim.max_steps=100000", "run.valid_every=100000", "run.save_every=100000"]
    ranks = start_pair(*arguments(poisoned, output, *endless))
    try:
        deadline = time.monotonic() + 120
        log = output / "metrics.jsonl"
        while not (log.exists() and log.read_text().count("\n") >= 4):
            assert time.monotonic() < deadline and ranks[0].poll() is None, "never started"
            time.sleep(0.1)
        ranks[1].send_signal(signal.SIGTERM)
        texts = [rank.communicate(timeout=120)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    return output, ranks, texts


@pytest.mark.long
def test_a_signal_to_one_rank_saves_and_ends_all_ranks_well(stopped):
    output, ranks, texts = stopped
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(texts)
    name = latest(output)
    step = int(name.removeprefix("step-"))
    assert step >= 3
    assert (output / "REQUEUE").read_text() == f"SIGTERM at step {step}\n"
    assert not (output / "DONE").exists() and not (output / "FAILED").exists()
    assert "SIGTERM: saved step" in texts[0] and "--resume auto" in texts[0]
    layout.verify(output / "checkpoints" / name)
    assert list(by_step(output)) == list(range(1, step + 1))


# ---- Steps that are not finite ------------------------------------------------------------------


@pytest.mark.long
def test_one_bad_window_is_logged_with_step_and_rank_and_survived(stopped):
    output, _, texts = stopped
    said = "step 2: loss not finite on rank 1; the step was skipped"
    assert [text.count(said) for text in texts] == [1, 0]
    logged = {step: record for step, record in by_step(output).items() if step <= FEW_STEPS}
    assert len(logged) >= 3
    assert logged[2]["nonfinite/loss/rank1"] == 1.0
    assert [s for s, record in logged.items() if "nonfinite/loss/rank1" in record] == [2]
    assert [s for s, record in logged.items() if record["train/loss"] is None] == [2]
    weights = consolidate(output / "checkpoints" / latest(output))
    assert all(tensor.isfinite().all() for tensor in weights.values())


@pytest.mark.long
def test_three_bad_steps_in_a_row_end_the_run(data, tmp_path):
    rows = {name: d.rows("train") for name, d in open_datasets([data]).items()}
    poisoned = poison(data, tmp_path / "shards", rows)
    output = tmp_path / "run"
    done = run(sys.executable, SCRIPT, *arguments(poisoned, output))
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert "error on rank 0: 3 steps in a row were not finite (up to step 3; " in done.stderr
    assert (output / "FAILED").read_text().splitlines()[1].startswith("needs a person")
    assert [r["step"] for r in read_metrics(output / "metrics.jsonl") if "train/loss" in r] == [
        1, 2,
    ]  # fmt: skip
    assert not (output / "checkpoints/latest").exists()


def assert_finite_statistics(checkpoint):
    buffers = load_file(checkpoint / "buffers.safetensors")
    assert all(tensor.isfinite().all() for tensor in buffers.values())


@pytest.mark.long
def test_an_overflow_on_one_rank_leaves_no_trace_in_the_statistics(data, tmp_path):
    output = tmp_path / "run"
    fault = {"FAULT": "hidden overflow", "FAULT_RANK": "1"}
    with mock.patch.dict(os.environ, fault):
        ranks = start_pair(*arguments(data, output), script=FAULTY)
    try:
        texts = [rank.communicate(timeout=240)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(texts)
    said = "step 3: BatchNorm statistics not finite; they are again those of the step before"
    assert [text.count(said) for text in texts] == [1, 0]
    assert by_step(output)[3]["nonfinite/statistics"] == 1.0
    assert by_step(output)[6]["valid/pearson_log1p"] is not None
    for step in (3, 6):
        assert_finite_statistics(output / f"checkpoints/step-0000000{step}")
    convert(output, tmp_path / "export")


@pytest.mark.long
def test_a_run_goes_back_and_survives_an_overflow_there(finished, data, tmp_path):
    """In one process, from the third step of a run of two; its sixth overflows."""
    output, config = tmp_path / "run", tmp_path / "deepspeed.json"
    shutil.copytree(finished[0], output)
    as_before = json.loads((REPO / DEEPSPEED_JSON).read_text()) | {"train_batch_size": 4}
    config.write_text(json.dumps(as_before | {"train_micro_batch_size_per_gpu": "auto"}))
    folder = output / "checkpoints"
    words = [config if w == DEEPSPEED_JSON else w for w in arguments(data, output)]
    again = ["--resume", folder / "step-00000003"]
    fault = {"FAULT": "overflow", "FAULT_RANK": 0, "RANK": 0}
    done = run(sys.executable, FAULTY, *words, *again, **fault)
    assert done.returncode == 0, done.stderr
    assert "step 6: loss not finite on rank 0; the step was skipped" in done.stdout
    assert list(by_step(output)) == [1, 2, 3, 4, 5, 6]
    assert (folder / "step-00000006.aside-1").is_dir() and latest(output) == "step-00000006"
    assert_finite_statistics(folder / "step-00000006")
    before, after = (layout.read_state(folder / f"step-0000000{step}") for step in (3, 6))
    run_id = json.loads((output / "config.json").read_text())["run"]
    assert before["run"] == after["run"] == run_id
    assert [start["step"] for start in after["lineage"]] == [0, 3]


# ---- Other ways to start ------------------------------------------------------------------------


def test_plain_python_trains_one_process(alone):
    output, done = alone
    assert done.returncode == 0, done.stderr
    assert "1 processes, expert parallel 1" in done.stderr
    assert latest(output) == "step-00000003"


@pytest.mark.long
def test_without_data_and_console_the_embedded_genomes_are_made_and_trained_on(tmp_path):
    tiny = [*TINY[1:], "optim.max_steps=3", "data.micro_batch_size=1", "run.valid_windows=1"]
    reader, console = os.pipe()
    os.close(reader)  # whatever is written fails
    done = subprocess.run(
        [sys.executable, REPO / SCRIPT, "--deepspeed", REPO / DEEPSPEED_JSON, *tiny],
        stdout=console,
        stderr=console,
        cwd=tmp_path,
        env=environment(XDG_CACHE_HOME=tmp_path / "cache"),
        timeout=240,
    )
    os.close(console)
    assert done.returncode == 0
    output = tmp_path / "runs/pretrain"
    assert (output / "DONE").exists() and not (output / "FAILED").exists()
    assert list(by_step(output)) == [1, 2, 3]
    made = [p.parent.name for p in (tmp_path / "cache").rglob("manifest.json")]
    assert sorted(made) == sorted(SPECIES)


@pytest.mark.slow
def test_the_bare_command_trains_on_the_embedded_genomes(tmp_path):
    command = deepspeed_command("--deepspeed", REPO / DEEPSPEED_JSON)
    command = [REPO / part if part == SCRIPT else part for part in command]
    done = run(*command, cwd=tmp_path, timeout=3600, XDG_CACHE_HOME=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    logged = by_step(tmp_path / Path("runs/pretrain"))
    last = logged[max(logged)]
    for species in SPECIES:
        assert last[f"valid/pearson_log1p/{species}"] > 0.4

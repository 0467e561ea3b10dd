"""Which windows count as seen, and what is refused."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from made_up_runs import PER_STEP, SEEDS, SPECIES, checkpoint_of, genome_of
from small_datasets import SEQ_LENGTH, SPAN, small_windows, write_small_dataset

from spacescale.checkpoint import layout
from spacescale.checkpoint.identity import digest_of_weights
from spacescale.contamination.seen import (
    TRAIN,
    VALID,
    read_training,
    seen_windows,
)
from spacescale.dataset.loader import open_datasets
from spacescale.dataset.sampler import SampleOrder
from spacescale.errors import UserError

REACH = (SEQ_LENGTH - SPAN) // 2 + 3  # of an input beyond its target, with the shift


def read_by(run):
    """(species, row) → how often the run read it, from the draws of its ranks."""
    training = read_training(run)
    datasets = open_datasets([Path(path) for path in training.config.data.paths])
    order = SampleOrder.of_run(
        training.config, {name: len(d.rows("train")) for name, d in datasets.items()}, 1, 2
    )
    draws = [
        draw
        for micro_step in range(training.step * PER_STEP // 2)
        for rank in (0, 1)
        for draw in order.draws(micro_step, rank)
    ]
    return Counter((d.species, int(datasets[d.species].rows("train")[d.window])) for d in draws)


def test_windows_are_those_that_the_ranks_drew(run):
    training = read_training(run)
    assert training.step == 3 and training.windows_read == 12
    seen, gaps = seen_windows(training, [])
    assert gaps.notes == [] and list(seen) == list(SPECIES)
    assert all(windows.counted for windows in seen.values())
    counted = read_by(run)
    for name, windows in seen.items():
        rows = windows.data.rows("train")
        assert windows.times.tolist() == [counted[name, int(row)] for row in rows]
        assert windows.times.sum() == 6
        assert windows.reach == REACH


def test_steps_are_those_that_are_asked_for(run):
    seen, _ = seen_windows(read_training(run, steps=200), [])
    assert [windows.times.sum() for windows in seen.values()] == [400, 400]
    assert all(windows.times.min() >= 17 for windows in seen.values())
    seen, _ = seen_windows(read_training(run, steps=0), [])
    assert not any(stretch.kind == TRAIN for one in seen.values() for stretch in one.stretches())


def test_stretches_are_the_inputs_once_each(run, data):
    seen, _ = seen_windows(read_training(run), [])
    finch = seen["finch"]
    bases = {TRAIN: {"chrI": np.zeros(3000, int)}, VALID: {"chrII": np.zeros(2000, int)}}
    for stretch in finch.stretches():
        bases[stretch.kind][stretch.contig.name][stretch.start : stretch.end] += 1
    expected = np.zeros(3000, dtype=int)
    for row, times in zip(finch.data.rows("train"), finch.times, strict=True):
        start = int(finch.data.windows.start[row])
        if times:
            expected[max(start - REACH, 0) : start + SPAN + REACH] = 1
    assert 0 < expected.sum() < 3000
    assert bases[TRAIN]["chrI"].tolist() == expected.tolist()
    assert bases[VALID]["chrII"][: 15 * SPAN].tolist() == [1] * 15 * SPAN


def test_the_bases_of_a_stretch_are_those_of_its_contig(run):
    seen, _ = seen_windows(read_training(run), [])
    contigs = dict(zip(("chrI", "chrII", "chrIII"), genome_of(2), strict=True))
    stretches = list(seen["moth"].stretches())
    assert {stretch.contig.name for stretch in stretches} == {"chrI", "chrII"}
    for one in stretches:
        found = one.data.bases(one.contig, one.start, one.end)
        assert found.tolist() == contigs[one.contig.name][one.start : one.end].tolist()


def test_readings_count_targets_inputs_and_other_splits(run):
    seen, _ = seen_windows(read_training(run, steps=200), [])
    finch = seen["finch"]
    first, second, third = finch.times[:3].tolist()
    assert finch.readings("chrI", 0) == (first, first, [])
    assert finch.readings("chrI", SPAN - 1) == (first, first + second, [])
    assert finch.readings("chrI", SPAN + SPAN // 2) == (second, second, [])
    assert finch.readings("chrI", 2 * SPAN - REACH) == (second, second + third, [])
    assert finch.readings("chrII", 10) == (0, 0, ["valid"])
    assert finch.readings("chrIII", 10) == (0, 0, ["test"])


def test_data_that_were_moved_are_found_by_data(run, data, tmp_path):
    moved = tmp_path / "moved"
    for name in reversed(SPECIES):
        write_small_dataset(moved / name, genome=genome_of(SEEDS[name]))
    known, _ = seen_windows(read_training(run), [])
    found, gaps = seen_windows(read_training(run), [moved / "moth", moved / "finch"])
    assert list(found) == list(SPECIES) and not gaps.notes
    for name in SPECIES:
        assert found[name].times.tolist() == known[name].times.tolist()
    checkpoint_of(
        tmp_path / "other", data, 3,
        config=json.loads(json.dumps(layout.read_state(find(run))["config"]).replace("small", "x")),
    )  # fmt: skip
    with pytest.raises(UserError, match=r"moth, which is not there; give --data"):
        seen_windows(read_training(tmp_path / "other"), [])


def find(run):
    return next(layout.checkpoints_folder(run).glob("step-*"))


def test_data_that_are_not_those_of_the_run_are_refused(run, data, tmp_path):
    training = read_training(run)
    with pytest.raises(UserError, match=r"--data holds finch; .* trained on 2 data sets"):
        seen_windows(training, [data / "finch"])
    other = tmp_path / "finch"
    write_small_dataset(other, windows=small_windows()[1:], targets=np.ones((48, 8, 3), "f2"))
    with pytest.raises(UserError, match="its windows and splits are not those"):
        seen_windows(training, [other, data / "moth"])
    wren = write_small_dataset(tmp_path / "wren")
    with pytest.raises(UserError, match=r"species 'wren'; .* was trained on finch, moth"):
        seen_windows(training, [data / "finch", wren])
    with pytest.raises(UserError, match="neither a run folder, a checkpoint nor an export"):
        read_training(tmp_path)


def test_of_a_checkpoint_of_another_order_all_windows_count(data, tmp_path):
    folder = checkpoint_of(tmp_path / "run", data, 3, format_version=3)
    manifest = json.loads((folder / layout.MANIFEST).read_text()) | {"format_version": 3}
    (folder / layout.MANIFEST).write_text(json.dumps(manifest))
    training = read_training(folder)
    assert training.windows_read is None
    seen, gaps = seen_windows(training, [data])
    assert "all training windows count" in gaps.notes[-1]
    assert not seen["finch"].counted and gaps.uncounted == list(SPECIES)
    assert seen["finch"].times.tolist() == [1] * 23
    with pytest.raises(UserError, match=r"--steps 5: .* does not tell in which order"):
        read_training(folder, steps=5)


def test_of_an_export_all_windows_count(data, tmp_path):
    folder = export_of(checkpoint_of(tmp_path / "run", data, 3), tmp_path / "export")
    training = read_training(folder)
    assert training.step == 3 and training.windows_read is None
    with pytest.raises(UserError, match=r"does not tell where its data lie; give --data"):
        seen_windows(training, [])
    seen, gaps = seen_windows(training, [data / "finch"])
    notes = gaps.notes
    assert list(seen) == ["finch"] and seen["finch"].times.tolist() == [1] * 23
    assert seen["finch"].reach == (SEQ_LENGTH - SPAN) // 2
    assert "moth: not among the data" in notes[0] and "all training windows count" in notes[1]
    assert (gaps.not_searched, gaps.not_known) == (["moth"], [])


def export_of(checkpoint, folder):
    """The record of an export, without its weights."""
    state = layout.read_state(checkpoint)
    folder.mkdir()
    (folder / "model.safetensors").touch()
    kept = ("step", "metrics", "data_manifests", "data_splits", "versions", "began_with")
    trained = {name: state[name] for name in kept}
    payload = {
        "format": "spacescale-model",
        "format_version": 1,
        "model": state["config"]["model"],
        "track_scale": "log1p",
        "trained": trained,
    }
    (folder / "config.json").write_text(json.dumps(payload))
    return folder


def test_a_run_its_checkpoint_and_its_export_have_one_digest(data, tmp_path):
    """And other steps, scores and data have others."""
    checkpoint = checkpoint_of(tmp_path / "run", data, 3)
    digest = digest_of_weights(tmp_path / "run")
    assert digest == digest_of_weights(export_of(checkpoint, tmp_path / "export"))
    assert digest == read_training(checkpoint).digest == read_training(tmp_path / "export").digest
    others = [
        checkpoint_of(tmp_path / "a", data, 4),
        checkpoint_of(tmp_path / "b", data, 3, metrics={"valid/loss": 0.25}),
        checkpoint_of(tmp_path / "c", data, 3, data_manifests={"finch": "0", "moth": "1"}),
    ]
    assert len({digest, *map(digest_of_weights, others)}) == 4
    later = read_training(checkpoint, steps=9)
    assert later.digest is None and later.name == "run/step-00000003, after 9 steps"
    assert read_training(checkpoint, steps=3).digest == digest
    assert read_training(tmp_path / "export").name == "export"


def test_released_weights_have_no_digest(data, tmp_path):
    folder = export_of(checkpoint_of(tmp_path / "run", data, 3), tmp_path / "export")
    payload = json.loads((folder / "config.json").read_text())
    payload["trained"]["data_manifests"] = dict.fromkeys(SPECIES)
    (folder / "config.json").write_text(json.dumps(payload))
    assert digest_of_weights(folder) is None

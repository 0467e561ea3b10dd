"""`spacescale recommend` as users run it, and its rules one by one."""

import json
import shlex
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_datasets import SPAN, small_targets, small_windows, write_small_dataset

from spacescale.cli import main
from spacescale.dataset.loader import open_datasets
from spacescale.dataset.reader import SpeciesData
from spacescale.dataset.sampler import SampleOrder
from spacescale.errors import UserError
from spacescale.genome.intervals import Interval
from spacescale.objectives import objective_of
from spacescale.overrides import build_config
from spacescale.planning import recipe, recommend, trial
from spacescale.planning.cautions import cautions
from spacescale.planning.data_facts import SpeciesFacts, TrackFacts, look_at
from spacescale.planning.recommend import Here, fitting_shape, plan_schedule
from spacescale.planning.trial import Trial
from spacescale.pretrain import parse_arguments

GOOD = TrackFacts("good", "rna", 1.0, 0.5)
TRIAL = Trial(1.0, 0.1, 0.1, 5, 1.0, 1.0)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(trial, "SECONDS", 0.0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def ask(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["spacescale", "recommend", *map(str, arguments)])
        status = main()
        return status, *capsys.readouterr()

    return run


def words_of(command):
    return shlex.split(command.replace("\\\n", " "))


def test_the_command_at_the_end_fits_the_data(ask, tmp_path):
    paths = [write_small_dataset(tmp_path / name) for name in ("ant", "bee")]
    status, out, _ = ask(*paths, "--minutes", 100_000)  # so that the data end it on any machine
    assert status == 0
    words = words_of(out.split("\n\n")[-1])
    assert words[:4] == ["deepspeed", "--num_gpus", "1", "spacescale/pretrain.py"]
    args = parse_arguments(words[4:])
    assert args.data == paths
    config = objective_of(build_config(args.preset, args.overrides)).complete(
        open_datasets(args.data)
    )
    assert (config.model.bin_size, config.model.target_length) == (16, 8)
    assert config.data.global_batch_size == 2
    assert config.optim.max_steps == recipe.most_steps(46, 2)
    assert config.run.patience == recipe.PATIENCE
    assert "space_tiny" in out and "(a guess)" in out
    assert "ant: 23 training windows, each read" in out


def test_json_holds_the_same_command(ask, tmp_path):
    status, out, _ = ask(write_small_dataset(tmp_path / "ant"), "--json")
    found = json.loads(out)
    assert status == 0
    assert parse_arguments(words_of(found["command"])[4:]).preset == "space_tiny"
    assert found["species"][0]["measured_bins"] == 23 * 8
    assert {each["setting"] for each in found["settings"]} == {
        "input",
        "time",
        "memory",
        *recipe.BECAUSE,
    } - {
        "species balance",
        "species weights",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--minutes", "0"], "--minutes 0"), (["nowhere"], "nowhere")],
)
def test_bad_input_is_refused_in_one_line(ask, arguments, message):
    status, out, err = ask(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and message in err and err.count("\n") == 1


def of_shape(bin_size, bins, seq_length, train=1):
    manifest = SimpleNamespace(num_windows={"train": train})
    shape = {"bin_size": bin_size, "target_length": bins, "seq_length": seq_length}
    return SimpleNamespace(path="here", manifest=manifest, **shape)


def test_inputs_are_cut_to_whole_bins_on_both_sides():
    shape = fitting_shape({"a": of_shape(128, 112, 16_800), "b": of_shape(128, 112, 20_000)})  # pyright: ignore
    assert shape["model.seq_length"] == 16_640
    build_config("space_demo", [f"{key}={value}" for key, value in shape.items()])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (of_shape(100, 8, 1000), "bins of 100 bp"),
        (of_shape(2, 8, 1000), "bins of 2 bp"),
        (of_shape(16, 8, 1000, train=0), "no training windows"),
    ],
)
def test_data_that_no_preset_fits_are_refused(data, message):
    with pytest.raises(UserError, match=message):
        fitting_shape({"a": data})


def test_memory_decides_how_large_preset_and_micro_batch_are(monkeypatch, tmp_path):
    data = [SpeciesData.open(write_small_dataset(tmp_path / "ant"))]
    shape = fitting_shape({"ant": data[0]})

    def plan(memory):
        here = Here(gpus=0, gpu="", cores=2, memory_bytes=memory)
        return recommend._largest_that_fits(data, shape, 10_000, 4, here)

    roomy = plan(2**36)
    assert (roomy.config.preset, roomy.accumulation) == ("space_tiny", 1)
    tight = plan(int((roomy.total_bytes - 1) / recipe.MEMORY_SHARE))
    assert (tight.config.preset, tight.windows, tight.accumulation) == ("space_tiny", {"ant": 2}, 2)
    with pytest.raises(UserError, match="no preset fits"):
        plan(2**20)


def test_steps_follow_from_the_time_or_from_the_data():
    by_time = plan_schedule(600, step_s=1, validation_s=5, most_steps=10_000)
    assert (by_time.steps, by_time.by_data) == (600 - 5 * recipe.VALIDATIONS, False)
    assert by_time.seconds == pytest.approx(600, rel=0.02)
    by_data = plan_schedule(600, step_s=1, validation_s=5, most_steps=24)
    assert (by_data.steps, by_data.by_data, by_data.valid_every) == (24, True, 2)
    dear = plan_schedule(600, step_s=1, validation_s=45, most_steps=10_000)
    assert 600 - dear.steps == 2 * 45  # as many as 15 % of the time pay for


def test_bases_count_once_and_what_is_nan_does_not(tmp_path):
    windows = [*small_windows(), Interval("chrI", SPAN // 2, SPAN // 2 + SPAN, "train")]
    windows.sort(key=lambda w: (w.chrom, w.start))
    targets = np.concatenate([small_targets(), small_targets()[:1]])
    targets[:, 4:, 1] = np.nan
    targets[:, :, 2] = 0
    path = write_small_dataset(tmp_path / "ant", targets, windows, missing="nan")
    facts = look_at(SpeciesData.open(path))
    assert (facts.windows["train"], facts.train_bp) == (24, 23 * SPAN)
    assert [track.measured for track in facts.tracks] == [1, 0.5, 1]
    assert [track.above_zero for track in facts.tracks] == [1, 1, 0]
    assert facts.measured_bins == pytest.approx(23 * 8 * 2.5 / 3)


def species(*tracks, valid=100, bins=10_000):
    windows = {"train": 500, "valid": valid}
    return SpeciesFacts("ant", windows, 128 * bins, bins, [GOOD, *tracks], 500, False, True)


def said(facts, epochs=1.0, steps=1_000, micro_batch=4, timed=TRIAL, others=("bee",)):
    names = ["ant", *others]
    order = SampleOrder(0, dict.fromkeys(names, 500), 1.0, micro_batch, 1, 0, False)
    return "\n".join(cautions([facts], {"ant": epochs}, steps, order, timed, 2.0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (lambda: said(species(TrackFacts("dead", "rna", 1.0, 0.0))), "ant: dead: no value above 0"),
        (lambda: said(species(TrackFacts("thin", "rna", 0.2, 0.5))), "thin: measured in 20.0%"),
        (lambda: said(species(TrackFacts("thin", "rna", 0.09, 0.5))), "fewer than 1,000 measured"),
        (lambda: said(species(bins=4_400)), "ant: 0.56 Mb to train on; with less than 1 Mb"),
        (lambda: said(species(valid=8)), "ant: 8 validation windows are too few"),
        (lambda: said(species(valid=0)), "ant: no validation windows"),
        (lambda: said(species(), epochs=30), "each read 30 times: overfitting is likely"),
        (lambda: said(species(), steps=20), "20 steps are hardly enough"),
        (lambda: said(species(), others=()), "one species: the mutual-information loss"),
        (lambda: said(species(), micro_batch=1), "100% of the micro-steps hold one species"),
        (lambda: said(species(), timed=Trial(1, 0.1, 0.1, 5, 1, 0.3)), "take 0.6 s at most"),
    ],
)  # fmt: skip
def test_each_caution_is_given_where_it_holds(text, message):
    assert message in text()


def test_nothing_is_said_of_a_sound_set():
    assert said(species()) == ""

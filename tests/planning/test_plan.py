"""`spacescale plan` as users run it, in this process."""

import json

import pytest

from spacescale.cli import main
from spacescale.prepare.options import DatasetOptions
from spacescale.prepare.stages import make_dataset
from spacescale.splits.options import SplitOptions
from spacescale.testing.simulated_genomes import write_simulated_genomes


@pytest.fixture
def plan(monkeypatch, capsys):
    """Run `spacescale plan`: exit status, standard output and standard error."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["spacescale", "plan", *map(str, arguments)])
        status = main()
        return status, *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    ("preset", "parameters"), [("space_large", 588_750_036), ("space_small", 183_182_308)]
)
def test_the_first_line_is_the_number_of_parameters(plan, preset, parameters):
    status, out, _ = plan("--preset", preset)
    assert status == 0
    assert out.splitlines()[0] == f"parameters {parameters}"


def test_everything_has_a_default(plan):
    status, out, _ = plan()
    assert status == 0
    assert "8 GPUs, ZeRO-2, expert parallel 2, micro-batch 1 human + 1 mouse" in out
    for name in ("active per token 484890324", "forward and backward", "weights", "gradients",
                 "optimiser", "activations", "total", "computing", "expert gradients", "BatchNorm",
                 "windows/s", "scaling efficiency"):  # fmt: skip
        assert f"{name} " in out
    assert "refuses" not in out


def test_zero_0_is_planned_but_said_to_be_refused(plan):
    _, out, _ = plan("--zero", 0)
    assert "the trainer refuses ZeRO-0" in out


def test_overrides_may_stand_among_the_options(plan):
    _, apart, _ = plan("model.depth=2", "--gpus", 4, "model.dropout=0", "--json")
    _, together, _ = plan("--gpus", 4, "--json", "model.depth=2", "model.dropout=0")
    assert apart == together
    with pytest.raises(SystemExit):
        plan("model.depth=2", "--gpus", 4, "--wrong")


def test_json_adds_up_and_follows_the_arguments(plan):
    arguments = ("--gpus", 16, "--zero", 1, "--ep", 4, "--micro-batch", 3, "--json")
    status, out, _ = plan("--preset", "space_2b", *arguments, "model.depth=2")
    found = json.loads(out)
    assert status == 0
    assert found["layout"] == {"gpus": 16, "zero_stage": 1, "ep_size": 4}
    assert found["micro_batch_windows"] == {"human": 2, "mouse": 1}
    sizes = found["bytes_per_gpu"]
    parts = ("weights", "gradients", "optimiser", "activations")
    assert sizes["total"] == pytest.approx(sum(sizes[part] for part in parts))
    assert set(found["bytes_sent_per_step"]) == set(found["seconds_per_step"]["communication"])
    human = found["flops_per_window"]["human"]
    assert human["forward"] == pytest.approx(sum(human["stages"].values()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpus", "0"], "--gpus 0"),
        (["--zero", "5"], "--zero 5"),
        (["--ep", "3"], "ep_size=3"),
        (["--micro-batch", "0"], "--micro-batch 0"),
        (["--accumulation", "0"], "--accumulation 0"),
        (["--machine", "b7"], "--machine b7"),
        (["--tflops", "-3"], "--tflops -3"),
        (["--preset", "space_larg"], "space_large"),
        (["model.dept=3"], "depth"),
        (["--data", "nowhere"], "nowhere"),
        (["--measure", "--preset", "space_10b"], "--measure: one process would need"),
        (["--measure", "objective=profiles+bases"], "--measure: of objective=profiles+bases"),
    ],
)
def test_bad_input_is_refused_in_one_line(plan, arguments, message):
    status, out, err = plan(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and message in err and err.count("\n") == 1


def test_step_time_follows_the_stated_rates(plan):
    links = ("--link-gbytes-per-s", 10, 5, "--gpus-per-node", 4, "--latency-us", 0)
    options = ("--gpus", 4, "--ep", 1, "--accumulation", 3, "--tflops", 100, "model.depth=2")
    _, out, _ = plan(*options, *links, "--machine", "h100", "--json")
    found = json.loads(out)
    seconds, sent = found["seconds_per_step"], found["bytes_sent_per_step"]
    work = found["flops_per_micro_batch"]["executed_training"]
    assert seconds["compute"] == pytest.approx(3 * work / 100e12)
    assert seconds["communication"]["gradients"] == pytest.approx(sent["gradients"] / 10e9)
    total = seconds["compute"] + sum(seconds["communication"].values())
    assert seconds["total"] == pytest.approx(total)
    assert found["windows_per_s"] == pytest.approx(4 * 3 * 2 / total)
    assert found["scaling_efficiency"] == pytest.approx(seconds["compute"] / total)


def test_species_of_data_sets(plan, tmp_path):
    finch, moth, _ = write_simulated_genomes(tmp_path / "genomes", scale=0.05)
    for each in (finch, moth):
        make_dataset(
            DatasetOptions(
                species=each.name,
                fasta=each.fasta,
                targets=each.targets,
                splits=SplitOptions(contigs=each.contigs),
                out=tmp_path / "shards",
                seq_length=2048,
                bin_size=32,
                target_length=48,
            )
        )
    status, out, _ = plan("--preset", "space_demo", "--data", tmp_path / "shards", "--json")
    assert status == 0
    assert set(json.loads(out)["tracks"]) == {finch.name, moth.name}


def test_measured_stands_beside_planned(plan):
    size = ("model.seq_length=1536", "model.target_length=16", "model.depth=1")
    # All experts for each token, so that what is measured does not hang on where the gates send it.
    size += ("model.species_top_k=4", "model.tracks_top_k=8")
    status, out, _ = plan(*size, "--preset", "space_demo", "--micro-batch", 2, "--measure")
    assert status == 0
    table = out[out.index("measured:") :].splitlines()
    assert "micro-step of 1 human + 1 mouse in one process on cpu, ZeRO-0, fp32" in table[0]
    assert len(table) == 9
    for line in table[2:8]:
        assert float(line.split()[-1]) == pytest.approx(1.0, abs=0.02)

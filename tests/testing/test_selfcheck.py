"""`spacescale selfcheck` certifies training that is sound, and none of the faults planted in it.

The default tier takes 1 and 2 ranks; `-m slow` takes 4, every ZeRO stage, and bf16.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import faults_in_training
import pytest
import torch
from commands import deepspeed_launcher, run

from spacescale.config import DataConfig
from spacescale.errors import UserError
from spacescale.overrides import build_config
from spacescale.parallel import comm
from spacescale.parallel.watch import Watch
from spacescale.testing import selfchecks
from spacescale.testing.certificate import Certificate, Check
from spacescale.testing.certify import certify
from spacescale.testing.checked_runs import (
    CLIP,
    TRACKS,
    Bench,
    Layout,
    checked_config,
    checked_deepspeed_config,
    other_layout,
    write_data,
)
from spacescale.testing.ranks import run_ranks
from spacescale.train.signals import StopRequest

REPO = Path(__file__).parents[2]
ZERO_2 = REPO / "ds_configs" / "zero2_moe.json"
TRAINING = {
    "losses",
    "routing sums: MI, z, CV",
    "norm that is clipped",
    "share of the norm left by clipping",
    "gradients, clipped",
    "BatchNorm statistics",
    "BatchNorm statistics, between ranks",
}
# Fault → checks that must fail, those that must hold all the same. The rest may do either.
FAULTS = {
    "scaled_expert_gradients": ({"gradients, clipped"}, {"BatchNorm statistics"}),
    "lost_gradient": ({"gradients, clipped"}, {"BatchNorm statistics"}),
    "lost_tokens": ({"losses", "gradients, clipped"}, {"BatchNorm statistics, between ranks"}),
    "local_norm": ({"norm that is clipped", "gradients, clipped"}, {"BatchNorm statistics"}),
    "stale_statistics": ({"BatchNorm statistics"}, {"losses", "gradients, clipped"}),
    "stale_statistics_of_a_rank": ({"BatchNorm statistics, between ranks"}, {"losses"}),
    "unsynchronised_statistics": (
        {"losses", "BatchNorm statistics", "BatchNorm statistics, between ranks"},
        {"share of the norm left by clipping"},
    ),
    "swapped_species": ({"losses", "gradients, clipped"}, {"share of the norm left by clipping"}),
}


def bench(
    folder: Path,
    stop: StopRequest,
    watch: Watch,
    zero: int = 2,
    bf16: bool = False,
    accumulation: int = 1,
    preset: str = "space_large",
    overrides: Sequence[str] = (),
) -> Bench:
    """As the command makes it, for the expert parallelism that is the default."""
    settings = {
        "gradient_clipping": 0.2,
        "gradient_accumulation_steps": accumulation,
        "zero_optimization": {"stage": zero},
        "torch_autocast": {"enabled": bf16, "dtype": "bfloat16"},
    }
    path = folder.with_suffix(".json")
    comm.on_main_only(lambda: path.write_text(json.dumps(settings)))
    return Bench(
        folder,
        checked_config(build_config(preset, list(overrides)), comm.world_size()),
        checked_deepspeed_config(path, DataConfig()),
        torch.device("cpu"),
        stop,
        watch,
    )


def check_all(folder: Path, stages: list[int], bf16: bool = False) -> dict[int, list[Check]]:
    stop = StopRequest()
    with Watch(stop.leave) as watch:
        return {
            zero: list(selfchecks.all_checks(bench(folder / f"{zero}", stop, watch, zero, bf16, 2)))
            for zero in stages
        }


def check_objectives(folder: Path) -> dict[str, list[Check]]:
    """Sound runs of the objectives beside `profiles`."""
    stop = StopRequest()
    bases = ("space_tiny", ["objective=profiles+bases"])
    with Watch(stop.leave) as watch:
        found = {}
        for name, (preset, changed) in {"bases": bases, "tokens": ("genomics_fm_tiny", [])}.items():
            here = bench(folder / name, stop, watch, preset=preset, overrides=changed)
            found[name] = list(selfchecks.all_checks(here))
        here = bench(folder / "untied", stop, watch, preset="genomics_fm_tiny")
        write_data(here)
        with faults_in_training.untied_words():
            found["untied_words"] = selfchecks.check_training(here)[0]
    return found


def check_faults(folder: Path) -> dict[str, list[Check]]:
    """The checks of training under each fault; of conversion, those of a sound run."""
    found, stop = {}, StopRequest()
    with Watch(stop.leave) as watch:
        for name in FAULTS:
            here = bench(folder / name, stop, watch)
            write_data(here)
            with getattr(faults_in_training, name)():
                found[name] = selfchecks.check_training(here)[0]
        here = bench(folder / "sound", stop, watch)
        write_data(here)
        found["sound"], plain = selfchecks.check_training(here)
        found["sound"] += selfchecks.check_resuming(here, other_layout(here.layout, 2, 4))
        with faults_in_training.swapped_heads():
            found["swapped_heads"] = selfchecks.check_converting(here, plain)
        found["sound"] += selfchecks.check_converting(here, plain)
    return found


def certify_twice(folder: Path) -> list[bool]:
    """Whether a sound process is certified, and one whose experts' gradients are scaled."""
    args = argparse.Namespace(
        deepspeed=ZERO_2, preset="space_large", overrides=[], output=folder / "sound.md"
    )
    stop = StopRequest()
    with Watch(stop.leave) as watch:
        sound = certify(args, torch.device("cpu"), stop, watch)
        args.output = folder / "faulty.md"
        with faults_in_training.scaled_expert_gradients():
            faulty = certify(args, torch.device("cpu"), stop, watch)
    assert_all_hold(sound.checks)
    return [sound.holds, faulty.holds]


def assert_all_hold(checks: list[Check], count: int = 12) -> None:
    assert len(checks) == count
    assert [str(check) for check in checks if not check.holds] == []


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    first, second = run_ranks(check_faults, 2, tmp_path_factory.mktemp("faults"))
    assert first == second, "the ranks disagree on the outcome"
    return first


@pytest.mark.long
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_training_is_found(fault, two_ranks):
    holds = {check.name: check.holds for check in two_ranks[fault]}
    fail, hold = FAULTS[fault]
    assert holds.keys() == TRAINING
    assert {name for name in fail if holds[name]} == set()
    assert {name for name in hold if not holds[name]} == set()


@pytest.mark.long
def test_heads_swapped_in_the_conversion_are_found(two_ranks):
    (check,) = two_ranks["swapped_heads"]
    assert not check.holds
    assert "differs from the checkpoint's own predictions" in check.where


@pytest.mark.long
def test_sound_training_on_two_ranks_is_certified(two_ranks):
    assert_all_hold(two_ranks["sound"])


@pytest.mark.long
def test_every_objective_is_certified_by_a_model_of_its_own(tmp_path):
    found, _ = run_ranks(check_objectives, 2, tmp_path)
    assert_all_hold(found["bases"])
    assert_all_hold(found["tokens"], 9)  # neither a router nor BatchNorm
    holds = {check.name: check.holds for check in found["untied_words"]}
    assert not holds["gradients, clipped"]
    assert holds["share of the norm left by clipping"]


@pytest.mark.long
def test_one_process_gets_a_page_and_figures_and_leaves_nothing_else(tmp_path):
    (holds,) = run_ranks(certify_twice, 1, tmp_path)
    assert holds == [True, False]
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"sound.md", "sound.json", "faulty.md", "faulty.json"}
    assert "All 12 checks hold." in (tmp_path / "sound.md").read_text()
    payload = json.loads((tmp_path / "faulty.json").read_text())
    failed = [check["name"] for check in payload["checks"] if not check["holds"]]
    assert (payload["holds"], failed) == (False, ["gradients, clipped"])
    assert {"spacescale", "torch", "deepspeed", "processes"} <= payload["circumstances"].keys()


@pytest.mark.slow
def test_the_command_under_a_launcher(tmp_path):
    page = tmp_path / "page.md"
    words = [*deepspeed_launcher(), "spacescale/selfcheck.py", "--deepspeed", ZERO_2]
    done = run(*words, "--output", page)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("\nholds ") == 12
    assert "2 on " in page.read_text()
    bad = run(*words, "parallel.ep_size=3")
    assert bad.returncode != 0
    assert bad.stderr.count("error: parallel.ep_size=3 must divide") == 1
    assert "Traceback" not in bad.stderr


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_sound_training_is_certified_in_every_zero_stage(world, precision, tmp_path):
    ranks = run_ranks(check_all, world, tmp_path, [1, 2, 3], precision == "bf16", timeout_s=1200)
    for checks in ranks[0].values():
        assert_all_hold(checks)


def test_another_layout_is_another_where_there_is_one():
    assert other_layout(Layout(2, 2), 4, 4) == Layout(1, 3)
    assert other_layout(Layout(1, 3), 4, 4) == Layout(2, 1)
    assert other_layout(Layout(1, 1), 1, 4) == Layout(1, 2)


def test_experts_are_as_many_as_the_users_expert_parallelism_needs():
    user = build_config("space_10b", [])
    config = checked_config(user, 8)
    assert (config.parallel.ep_size, config.space.species_num_experts) == (8, 8)
    with pytest.raises(UserError, match="ep_size=3 must divide"):
        checked_config(build_config("space_10b", ["parallel.ep_size=3"]), 8)


def test_users_settings_stay_but_for_what_a_tiny_model_needs():
    config = checked_deepspeed_config(REPO / "ds_configs" / "8xA40.json", DataConfig())
    assert config["zero_optimization"]["stage"] == 1
    assert config["gradient_accumulation_steps"] == 2
    assert config["gradient_clipping"] == CLIP
    assert set(TRACKS.values()) != {len(TRACKS)} and len(TRACKS) > 2


def test_a_figure_that_is_no_number_fails(tmp_path):
    checks = [Check("good", 0.1, 1.0), Check("bad", float("nan"), 1.0, "a | b")]
    certificate = Certificate(checks, {"torch": "2"})
    certificate.write(tmp_path / "page.md")
    payload = json.loads((tmp_path / "page.json").read_text())
    assert (payload["holds"], [c["holds"] for c in payload["checks"]]) == (False, [True, False])
    page = (tmp_path / "page.md").read_text()
    assert "1 of 2 checks FAILED" in page
    assert "| bad | nan | 1.0e+00 | **NO** | a / b |" in page

"""Every preset, at a tiny shape: trained two steps, evaluated, converted, planned and described.

Those most unlike each other by default, all of them with -m slow.
"""

import json

import pytest
from commands import DEEPSPEED_JSON, REPO, TINY
from preset_runs import train_all

from spacescale.checkpoint.convert import convert
from spacescale.evals.evaluation import evaluate
from spacescale.evals.info import describe
from spacescale.planning.machine import named_machine
from spacescale.planning.measure import measure_plan
from spacescale.planning.plan import plan_preset
from spacescale.planning.report import as_text
from spacescale.presets import PRESETS as ALL_PRESETS
from spacescale.testing.ranks import run_ranks

pytestmark = pytest.mark.long

# Those of tokens: tests/objectives/test_tokens.py.
PRESETS = [p for p in ALL_PRESETS if ALL_PRESETS[p].get("objective", "profiles") == "profiles"]
WITHOUT_EXPERTS = {"enformer", "space_dense_encoder", "space_dense_no_species"}
UNLIKE = {"enformer", "space_dense_encoder", "space_mlp_decoder", "space_released"}
WITHOUT_DECODER_EXPERTS = {"enformer", "space_no_decoder", "space_mlp_decoder"}


def overrides(preset):
    tiny = [word for word in TINY if not word.startswith("--")]
    tiny += ["model.seq_length=2048", "model.target_length=48", "model.num_downsamples=5"]
    tiny += ["model.track_grouping=table", "data.num_workers=0", "optim.max_steps=2"]
    tiny += ["run.valid_every=2", "run.valid_windows=2"]
    # one decoder's experts serve three species here
    return tiny + ([] if preset in WITHOUT_DECODER_EXPERTS else ["model.tracks_num_experts=4"])


@pytest.fixture(scope="module")
def runs(request, data, tmp_path_factory):
    """The folder of the runs of all presets that are to be tested."""
    folder = tmp_path_factory.mktemp("presets")
    cases = [item for item in request.session.items if item.module is request.module]
    presets = [item.callspec.params["preset"] for item in cases]
    changes = {preset: overrides(preset) for preset in presets}
    run_ranks(train_all, 1, changes, data, REPO / DEEPSPEED_JSON, folder)
    return folder


@pytest.mark.parametrize(
    "preset", [p if p in UNLIKE else pytest.param(p, marks=pytest.mark.slow) for p in PRESETS]
)
@pytest.mark.usefixtures("blank_figures")
def test_every_preset_goes_all_the_way(runs, data, tmp_path, preset):
    run = runs / preset
    assert (run / "DONE").exists()
    table = evaluate(run, [])
    lines = table.splitlines()[1:]
    assert {line.split()[0].rstrip(",") for line in lines} == {"finch", "moth", "perch"}
    figures = {path.name for path in (run / "evaluation/test/figures").iterdir()}
    routed = preset not in WITHOUT_EXPERTS & WITHOUT_DECODER_EXPERTS
    assert ("expert_use.png" in figures) == routed
    metrics = json.loads((run / "evaluation/test/metrics.json").read_text())
    assert metrics["species"]["finch"]["windows"] > 0

    found = convert(run, tmp_path / "export")
    assert found.difference < 1e-5 and found.turned == 0
    for path in (run, tmp_path / "export"):
        assert "finch" in describe(path)

    plan = plan_preset(
        preset, overrides(preset), [data], gpus=2, zero_stage=2, ep_size=None, micro_batch=2,
        precision="fp32", accumulation=1, machine=named_machine("a40"),
    )  # fmt: skip
    assert "measured" in as_text(plan, measure_plan(plan))

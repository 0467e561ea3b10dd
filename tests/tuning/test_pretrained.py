"""Weights that fine-tuning and probing begin with: of a model of hidden bases its SPACE alone."""

import argparse

import numpy as np
import pytest
import torch
from small_models import write_export
from small_tasks import motif_task
from test_hybrid import hybrid

from spacescale import finetune
from spacescale.checkpoint.weight_files import save_weights
from spacescale.files import read_json, write_json
from spacescale.model import Space
from spacescale.probing import commands as probing
from spacescale.probing.probe import plan_of as plan_of_probe
from spacescale.tuning.criterion import Criterion
from spacescale.tuning.fit import answers, readers_of
from spacescale.tuning.sequence_model import SequenceModel
from spacescale.tuning.suite import plan_of
from spacescale.tuning.tuned_model import load_tuned, save_tuned

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """An export with the head of hidden bases, as `convert --with-bases` makes it."""
    folder, model = write_export(tmp_path_factory.mktemp("hybrid") / "both"), hybrid()
    save_weights(model.state_dict(), folder)
    config = read_json(folder / "config.json")
    bases = model.bases.model_dump(mode="json")
    write_json(folder / "config.json", config | {"bases": bases})
    return folder


def parsed(add_options, weights, *options):
    parser = argparse.ArgumentParser()
    add_options(parser)
    return parser.parse_args(["--weights", str(weights), "--task", "anywhere", *options])


@pytest.mark.parametrize(
    "options", [["--species", "finch"], ["--species", "crow", "--like", "finch"]]
)
def test_a_model_of_hidden_bases_is_tuned_and_kept_as_its_space(weights, options, tmp_path):
    plan = plan_of(parsed(finetune.add_options, weights, *options))
    trunk = plan.pretrained.trunk("pretrained", plan.settings)
    codes = torch.randint(0, 4, (2, 61), dtype=torch.uint8)
    expected = hybrid().embed(codes, "finch").mean(1)
    torch.testing.assert_close(trunk.features(codes), expected)

    model, task = SequenceModel(trunk, 2).eval(), motif_task(sizes=(4, 4, 4))
    readers = readers_of(task, model, plan.settings, CPU)
    criterion = Criterion.of(task, False)
    found = answers(model, readers["test"], criterion, False, CPU)
    save_tuned(tmp_path / "kept", model, criterion, readers["test"].encoding, task, False, {})
    again = load_tuned(tmp_path / "kept").answers(task.splits["test"].codes)
    np.testing.assert_allclose(again, found, atol=1e-6)


def test_a_model_of_hidden_bases_is_probed_as_its_space(weights):
    args = parsed(probing.add_options, weights, "--species", "crow", "--like", "finch")
    assert type(plan_of_probe(args).pretrained.space) is Space

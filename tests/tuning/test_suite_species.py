"""A species for each task of a suite: patterns of `--species` and `--like`."""

import argparse
import re

import pytest
from small_models import write_export

from spacescale import finetune
from spacescale.errors import UserError
from spacescale.tuning.suite import plan_of, plans_of
from spacescale.tuning.words_by_task import words_by_task

TASKS = ["covid", "mouse_0", "mouse_1", "tf_0"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """They know finch and perch."""
    return write_export(tmp_path_factory.mktemp("weights") / "tiny")


def plans(weights, options, wanted=TASKS):
    parser = argparse.ArgumentParser()
    finetune.add_options(parser, several=True)
    args = parser.parse_args(["GUE", "--weights", str(weights), *options.split()])
    return plans_of(args, TASKS, wanted)


def chosen(found):
    return {name: plan.pretrained.choices for name, plan in found.items()}


@pytest.mark.parametrize("options", [
    "--species mouse_*=perch finch", "--species mouse_*=perch --species finch",
    "--species finch mouse_1=perch mouse_?=perch",
])  # fmt: skip
def test_each_task_has_its_species_and_weights_are_read_once(options, weights):
    found = plans(weights, options)
    assert chosen(found) == {
        name: {"species": "perch" if name.startswith("mouse") else "finch"} for name in TASKS
    }
    assert len({id(plan.pretrained.space) for plan in found.values()}) == 1


def test_the_first_pattern_that_fits_wins():
    found = words_by_task("--species", ["mouse_1=perch", "m*=finch", "dove"], TASKS)
    assert found == {"covid": "dove", "mouse_0": "finch", "mouse_1": "perch", "tf_0": "dove"}


def test_new_species_begin_as_others_where_there_are_some(weights):
    found = plans(weights, "--species covid=virus m*=rat finch --like m*=perch finch")
    assert chosen(found) == {
        "covid": {"species": "virus", "like": "finch"},
        "mouse_0": {"species": "rat", "like": "perch"},
        "mouse_1": {"species": "rat", "like": "perch"},
        "tf_0": {"species": "finch"},
    }
    rated = plans(weights, "--species covid=virus finch --like finch --species-lr 0.01")
    assert [plan.settings.species_lr for plan in rated.values()] == [0.01, None, None, None]


def test_a_pattern_may_be_of_tasks_that_are_not_wanted(weights):
    found = plans(weights, "--species mouse_*=perch finch", wanted=["tf_0"])
    assert chosen(found) == {"tf_0": {"species": "finch"}}


@pytest.mark.parametrize("options, message", [
    ("--species mouse_*=perch tf_0=finch", "knows finch, perch: say which one covid is of"),
    ("--species mice_*=perch finch", "--species mice_*=perch: fits none of the tasks covid, mouse"),
    ("--species perch finch", "--species finch: perch is that of all other tasks already"),
    ("--species mouse_*= finch", "--species mouse_*=: expected SPECIES, or PATTERN=SPECIES"),
    ("--species mouse_*=prech finch", "no species 'prech' (did you mean 'perch'?)"),
    ("--species finch --like perch", "--like perch changes nothing: "),
    ("--species covid=virus finch --like m*=perch", "--like m*=perch: fits none of the tasks covi"),
    ("--species finch --species-lr 0.1", "--species-lr 0.1 is for a --species that the weights do"),
])  # fmt: skip
def test_what_leaves_a_task_without_a_species_is_refused(options, message, weights):
    with pytest.raises(UserError, match=re.escape(message)):
        plans(weights, options)


@pytest.mark.parametrize("options, message", [
    ("--species finch", "which learns a token and gates of its own; they know finch, perch"),
    ("--species crow --like finch --layer stem", "--species-lr 0.1: --layer stem lies before the"),
    ("--species crow --like finch --mode head", "--mode head learns nothing of a species that"),
])  # fmt: skip
def test_a_rate_of_no_new_species_is_refused(options, message, weights):
    parser = argparse.ArgumentParser()
    finetune.add_options(parser)
    words = ["--weights", str(weights), "--task", "anywhere", "--species-lr", "0.1"]
    with pytest.raises(UserError, match=re.escape(message)):
        plan_of(parser.parse_args([*words, *options.split()]))
    plan = plan_of(parser.parse_args([*words, "--species", "crow", "--like", "finch"]))
    assert plan.settings.species_lr == 0.1

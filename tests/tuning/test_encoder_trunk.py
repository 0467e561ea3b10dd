"""An encoder of tokens below a task: what is read and pooled, what learns, what is kept."""

import argparse
import re

import numpy as np
import pytest
import torch
from small_encoders import encoder, trunk, write_encoder
from small_tasks import examples, motif_task
from small_vocabularies import UNION

from spacescale.errors import UserError
from spacescale.finetune import add_options
from spacescale.genome.dna import encode, reverse_complement
from spacescale.parallel.engine import init_distributed, resolve_deepspeed_config
from spacescale.tasks.scores import score
from spacescale.tuning.batches import Reader
from spacescale.tuning.criterion import Criterion
from spacescale.tuning.encoding import Tokens
from spacescale.tuning.fit import answers, fit, reader_of, readers_of
from spacescale.tuning.pretrained import PretrainedEncoder
from spacescale.tuning.sequence_model import SequenceModel, choose_trained, merge_adapters
from spacescale.tuning.settings import POOLS, TuningSettings
from spacescale.tuning.suite import DEEPSPEED, plan_of
from spacescale.tuning.tuned_model import load_tuned, save_tuned
from spacescale.tuning.vocabulary_choice import overlap

CPU = torch.device("cpu")
SHORT, LONG = encode("ACACGTTTGATTACA"), encode("GGGACACGTTTNACGATCGGGATACCA")


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("part", UNION.names)
def test_what_fills_rows_up_is_not_pooled(part, pool):
    model = trunk(part, pool)
    read = Tokens(UNION, part)
    together = model.features(read.tensor([SHORT, LONG], 0))
    alone = read.tensor([SHORT], 0)
    torch.testing.assert_close(together[:1], model.features(alone))
    states = model.module.states(alone, torch.ones_like(alone, dtype=torch.bool))
    words = states[:, 2:-1]  # between [CLS], the prompt and [SEP]
    expected = {
        "cls": states[:, 0], "mean": words.mean(1), "sum": words.sum(1), "max": words.amax(1),
    }[pool]  # fmt: skip
    torch.testing.assert_close(together[:1], expected)


@pytest.mark.parametrize("pool", POOLS)
def test_a_sequence_without_a_word_has_features(pool):
    model = trunk("kmer", pool)
    rows = Tokens(UNION, "kmer").tensor([encode("ACG"), LONG], 0)
    found = model.features(rows)
    states = model.module.states(rows, rows != UNION.pad_id)
    torch.testing.assert_close(found[0], states[0, 0])


@pytest.mark.parametrize("part", UNION.names)
def test_the_other_strand_is_turned_before_it_is_tokenised(part):
    reader = Reader(examples(3, 0, 20, 30)[0], Tokens(UNION, part))
    (turned,) = reader.batch(np.arange(3), changes=dict.fromkeys(range(3), (0, True))).groups
    rows = [
        UNION.row(UNION.encode(reverse_complement(codes), part), part)
        for codes in reader.examples.codes
    ]
    assert turned.tolist() == UNION.pad(rows).tolist()
    (as_it_is,) = reader.batch(np.arange(3)).groups
    assert as_it_is.tolist() != turned.tolist()


def test_few_long_rows_are_read_at_once():
    assert Tokens(UNION, "kmer").at_once(100) == 128
    assert Tokens(UNION, "kmer").at_once(10_000) == 1
    assert Tokens(UNION, "bpe").at_once(10_000) == 2


def changed_names(tuned, mode):
    """Parameters that two steps of SGD change."""
    choose_trained(tuned, mode, 2, False)
    before = {name: value.clone() for name, value in tuned.state_dict().items()}
    optimiser = torch.optim.SGD([p for p in tuned.parameters() if p.requires_grad], lr=0.1)
    rows = Tokens(UNION, "kmer").tensor([SHORT, LONG], 0)
    tuned.train()
    for _ in range(2):
        optimiser.zero_grad()
        tuned([rows]).square().sum().backward()
        optimiser.step()
    after = tuned.state_dict()
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_what_learns_in_each_mode():
    head = {name for name, _ in SequenceModel(trunk(), 2).named_parameters() if "head." in name}
    new = {name for name in head if not name.startswith("encoder.")}
    assert changed_names(SequenceModel(trunk(), 2), "head") == new
    tuned = SequenceModel(trunk(), 2)
    everything = {name for name, _ in tuned.named_parameters()} - (head - new)
    assert changed_names(tuned, "full") == everything


def test_adapters_learn_beside_every_linear_layer_and_merge():
    pytest.importorskip("peft")
    tuned = SequenceModel(trunk(), 2).eval()
    names, rows = set(tuned.state_dict()), Tokens(UNION, "kmer").tensor([SHORT, LONG], 0)
    changed = changed_names(tuned, "lora")
    assert all("lora_" in name or name.startswith("head.") for name in changed)
    beside = {name.rsplit(".lora_", 1)[0] for name in changed if "lora_" in name}
    of_layer = ("attention.qkv", "attention.output", "feed_forward.gated", "feed_forward.output")
    assert beside == {f"encoder.layers.{i}.{one}" for i in range(2) for one in of_layer}
    learnt = tuned.eval()([rows]).detach()
    merge_adapters(tuned)
    assert set(tuned.state_dict()) == names
    torch.testing.assert_close(tuned([rows]), learnt, rtol=1e-4, atol=1e-5)


def test_a_motif_is_learnt_and_the_kept_model_answers_alike(tmp_path):
    init_distributed()
    task = motif_task(sizes=(192, 64, 64), low=40, high=70)
    torch.manual_seed(0)
    model = SequenceModel(trunk("kmer", "max", dropout=0.1), 2)
    settings = TuningSettings(lr=3e-3, head_lr=3e-3, epochs=12, patience=0, batch_size=16)
    readers = readers_of(task, model, settings, CPU)
    fit(model, task, readers, settings, resolve_deepspeed_config(DEEPSPEED, "a test", 16), CPU)
    criterion, encoding = Criterion.of(task, False), readers["test"].encoding
    found = answers(model, readers["test"], criterion, False, CPU)
    assert score("classes", task.splits["test"].targets, found)["mcc"] > 0.6

    folder = tmp_path / "tuned"
    save_tuned(folder, model, criterion, encoding, task, False, {})
    codes = task.splits["test"].codes
    np.testing.assert_allclose(load_tuned(folder).answers(codes), found, atol=1e-6)
    np.testing.assert_allclose(load_tuned(folder).answers(codes[:1]), found[:1], atol=1e-6)
    UNION.only(["bpe"]).write(folder / "vocabulary/vocabulary.json", {})
    with pytest.raises(UserError, match="not the vocabulary that the model was trained with"):
        load_tuned(folder)


def pretrained(vocabulary=UNION, wanted="auto"):
    return PretrainedEncoder("tiny", encoder(), "digest", vocabulary, wanted)


def words_of_bpe():
    """A task of which the vocabulary's BPE holds more words than its 6-mers do."""
    task = motif_task(sizes=(6, 2, 2))
    for found in task.splits.values():
        found.codes[:] = [
            encode("ACACGT") if i % 2 else encode("TTTTTT") for i in range(len(found))
        ]
    return task


@pytest.mark.parametrize("make, part", [(words_of_bpe, "bpe"), (motif_task, "kmer")])
def test_the_vocabulary_is_the_one_that_is_chosen_for_the_task(make, part):
    task = make()
    counted, chosen = overlap(task, UNION), pretrained().of_task(task)
    assert chosen.part == counted.choice == part
    assert chosen.choices == {"vocabulary": part, "shared_words": counted.shared}
    assert f"{counted.shared['kmer']:,} among 6-mers" in chosen.notes[0]
    other = ({"bpe", "kmer"} - {part}).pop()
    given = pretrained(wanted=other).of_task(task)
    assert given.part == other and given.facts != chosen.facts
    assert pretrained(wanted=part).of_task(task).facts == chosen.facts
    alone = pretrained(UNION.only([other])).of_task(task)
    assert (alone.part, alone.found) == (other, None)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("weights") / "tiny")


def plan_with(weights, *options):
    parser = argparse.ArgumentParser()
    add_options(parser)
    return plan_of(parser.parse_args(["--weights", str(weights), "--task", "anywhere", *options]))


@pytest.mark.parametrize(
    "options, message",
    [
        (["--species", "yeast"], "--species: {} is an encoder of tokens, which knows no species"),
        (["--like", "yeast"], "--like: {} is an encoder of tokens, which knows no species"),
        (["--layer", "stem"], "--layer: {} is an encoder of tokens, which gives features of its"),
        (["--live-batchnorm"], "--live-batchnorm: {} is an encoder of tokens, which has no Batch"),
        (["--shift", "3"], "--shift: {} is an encoder of tokens, which has no words for"),
        (["--fractions", "0,10"], "--fractions 0,10: expected percentages above 0 to 100"),
    ],
)
def test_options_without_a_meaning_are_refused(weights, options, message):
    with pytest.raises(UserError, match=re.escape(message.format(weights))):
        plan_with(weights, *options)


def test_what_is_taken_where_options_say_nothing(weights):
    plan = plan_with(weights)
    assert (plan.settings.pool, plan.lrs, len(plan.seeds)) == ("cls", (3e-5, 3e-4, 1e-3), 5)
    curve = plan_with(weights, "--fractions", "100,10", "--pool", "mean", "--lr", "1e-3")
    assert (curve.fractions, len(curve.seeds)) == ((10, 100), 3)
    assert (curve.settings.pool, curve.lrs) == ("mean", (1e-3,))


def test_all_rows_of_a_task_go_into_one_tensor():
    task = motif_task(sizes=(8, 4, 4), low=40, high=70)
    reader = reader_of(task, "train", SequenceModel(trunk(), 2), False)
    (group,) = reader.batch(np.arange(8)).groups
    assert group.shape == (8, max(task.splits["train"].lengths) - 5 + 3)

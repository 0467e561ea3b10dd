"""The objective `tokens`: trained, stopped, exported, scored; alike in any number of processes."""

import math
import shutil

import pytest
import torch
from small_vocabularies import BPE, UNION
from token_runs import (
    SPECIES,
    STEPS,
    STOPPED_AT,
    all_first_gradients,
    completed,
    config_of,
    first_gradients,
    run,
    run_all,
    write_inputs,
)

from spacescale.checkpoint.dnabert2 import convert_to_dnabert2
from spacescale.checkpoint.encoder_names import from_dnabert2
from spacescale.dataset.manifest import save_manifest
from spacescale.dataset.species_genome import SpeciesGenome
from spacescale.dataset.token_windows import TokenWindows
from spacescale.errors import UserError
from spacescale.evals.info import describe
from spacescale.evals.status import as_text, read_status
from spacescale.evals.token_evaluation import evaluate_tokens
from spacescale.files import read_json
from spacescale.metrics.history import read_history, runs
from spacescale.metrics.writer import read_metrics
from spacescale.model.encoder_export import load_encoder
from spacescale.model.exports import load_export, read_weights
from spacescale.objectives.token_scores import TokenScore, logged
from spacescale.predict.trained_encoder import holds_tokens
from spacescale.predict.trained_model import load_trained
from spacescale.testing.ranks import run_ranks
from spacescale.tokens.masking import IGNORED
from spacescale.tokens.vocabulary import Vocabulary, read_vocabulary

WORLDS = (1, 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    write_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def ran(folder):
    """World → how its export agrees with the checkpoint."""
    return {world: run_ranks(run_all, world, folder)[0] for world in WORLDS}


def numbers_of(output):
    found = {}
    for record in read_metrics(output / "metrics.jsonl"):
        values = {n: v for n, v in record.items() if not n.startswith(("time", "speed/"))}
        found.setdefault(record["step"], {}).update(values)
    return found


# --- training ---


def test_losses_fall_and_are_logged_by_species_and_vocabulary(ran, folder):
    steps = numbers_of(folder / "zero2-1")
    assert list(steps) == [*range(1, STEPS + 1)]
    uniform = math.log(len(UNION))
    assert steps[1]["train/loss"] == pytest.approx(uniform, abs=0.2)
    assert steps[STEPS]["train/loss"] < steps[1]["train/loss"] - 0.5
    of_vocabularies = [steps[2][f"train/tokens/{name}"] for name in UNION.names]
    assert steps[2]["train/loss"] == pytest.approx(sum(of_vocabularies) / 2, rel=1e-5)
    for species in SPECIES:
        assert {f"train/loss/{species}", f"train/windows/{species}"} < steps[2].keys()
        assert {f"valid/loss/{species}", f"valid/kmer/bits_per_base/{species}"} < steps[3].keys()
    # Training shows some of the hidden words, scores do not: not the same loss.
    assert not [name for name in steps[3] if name.startswith("valid/gap")]


def test_any_number_of_processes_and_any_zero_stage_loses_the_same(ran, folder):
    expected = numbers_of(folder / "zero2-1")
    for world in WORLDS:
        for zero in (1, 2, 3):
            found = numbers_of(folder / f"zero{zero}-{world}")
            for step, values in expected.items():
                assert found[step] == pytest.approx(values, rel=2e-4), (world, zero, step)


def test_gradients_of_tied_weights_are_those_of_one_process(folder):
    expected = first_gradients(folder, None)
    for zero, found in run_ranks(all_first_gradients, 2, folder)[0].items():
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            error = (found[name] - tensor).abs().max() / tensor.abs().max().clamp(min=1e-9)
            assert error < 1e-4, (zero, name)
    assert expected["words.weight"].abs().sum(1).gt(0).all(), "the head teaches every word"


@pytest.mark.parametrize("world", WORLDS)
def test_it_goes_on_where_it_was_stopped(ran, folder, world):
    whole, stopped = (numbers_of(folder / f"{name}-{world}") for name in ("zero3", "stopped"))
    ends = [one.end for one in runs(read_history(folder / f"stopped-{world}"))]
    assert [(end.cause, end.step) for end in ends if end] == [
        ("stopped", STOPPED_AT),
        ("done", STEPS),
    ]
    assert stopped == whole


def test_the_loss_written_out(folder):
    objective, datasets = completed(folder)
    model = objective.build().eval()
    batch = objective.windows(datasets, 8, 0, 1, 1)[0]
    losses = objective.losses(model, batch, lambda x: x, 0)
    by_group = {}
    for species, part in batch.items():
        for ids, labels, attended, number in zip(
            part.ids, part.labels, part.attended, part.vocabulary, strict=True
        ):
            hidden = labels != IGNORED
            with torch.no_grad():
                logits = model(ids[None], attended[None], hidden[None]).log_softmax(-1)
            lost = -logits.gather(1, labels[hidden][:, None])[:, 0]
            by_group.setdefault((species, int(number)), []).extend(lost.tolist())
    for number, name in enumerate(UNION.names):
        lost = [x for (_, n), of in by_group.items() if n == number for x in of]
        assert losses.terms[f"tokens/{name}"].item() == pytest.approx(sum(lost) / len(lost), 1e-4)
    terms = torch.stack([*losses.terms.values()])
    assert losses.total.item() == pytest.approx(terms.mean().item(), 1e-6)
    for species, part in batch.items():
        means = [sum(of) / len(of) for (s, _), of in by_group.items() if s == species and of]
        found = losses.of_species[species]
        assert found.mean.item() == pytest.approx(sum(means) / len(means), 1e-4)
        assert found.windows == part.num_windows == part.on_all_ranks


def test_one_vocabulary_alone_is_the_same_code(folder):
    (done,) = run_ranks(run_alone, 1, folder)
    assert done
    assert read_vocabulary(folder / "alone/checkpoints/step-00000002/vocabulary").names == ("bpe",)


def run_alone(folder):
    run(folder, "alone", 'mlm.vocabularies=["bpe"]', "optim.max_steps=2", "run.valid_every=2")
    return True


# --- what is left of a run ---


@pytest.mark.parametrize("world", WORLDS)
def test_its_export_is_proved_and_carries_the_vocabulary(ran, folder, world):
    assert ran[world].difference < 1e-5 and ran[world].choices == 0
    export = folder / f"export-{world}"
    config = read_json(export / "config.json")
    assert config["mlm"]["vocabulary_sha256"] == UNION.sha256
    assert "vocabulary" not in config["mlm"], "no path of this machine"
    content = read_json(export / "vocabulary/vocabulary.json")
    assert content["sha256"] == UNION.sha256 and content["made_from"] == {"species": "none"}
    assert load_encoder(export).config.vocab_size == len(UNION)


def test_names_of_dnabert2(ran, folder, tmp_path):
    agreement = convert_to_dnabert2(folder / "stopped-2", tmp_path / "theirs")
    assert agreement is not None and agreement.difference < 1e-5
    weights = read_weights(tmp_path / "theirs")
    assert "cls.predictions.decoder.weight" in weights
    ours = load_encoder(folder / "export-2")
    for name, tensor in from_dnabert2(weights, 2, "theirs").items():
        assert tensor.equal(ours.state_dict()[name])
    config = read_json(tmp_path / "theirs/config.json")
    assert (config["hidden_size"], config["num_attention_heads"]) == (24, 2)
    assert convert_to_dnabert2(folder / "export-2", tmp_path / "again") is None


def test_status_and_info_tell_of_tokens(ran, folder):
    assert "accuracy of hidden tokens at step 6: " in as_text(read_status(folder / "stopped-2"))
    for path in (folder / "stopped-2", folder / "export-2"):
        text = describe(path)
        assert "BPE of up to 120 bp, k-mers of up to 90 bp" in text
        assert f"{len(UNION):,} tokens, sha256 {UNION.sha256[:12]}" in text
        assert "trained on   moth, tiny" in text


def test_what_is_about_tracks_refuses_it_in_one_line(ran, folder):
    for path in (folder / "stopped-2", folder / "export-2"):
        assert holds_tokens(path)
        with pytest.raises(UserError, match=r"predicts no tracks; expected .* of .*profiles"):
            load_trained(path)
    with pytest.raises(UserError, match="an encoder of tokens, which predicts no tracks"):
        load_export(folder / "export-2")
    assert not holds_tokens(folder / "data")


@pytest.mark.long
def test_evaluation_of_a_run_is_that_of_its_validation(ran, folder, tmp_path):
    """Of the same sequences, with the same tokens hidden; an export says the same."""
    text = evaluate_tokens(folder / "stopped-2", [], tmp_path / "run", "valid", 3, False)
    assert text.splitlines()[0].split() == [
        "species", "words", "hidden", "nats/token", "unigram", "accuracy", "bits/base"
    ]  # fmt: skip
    found = read_json(tmp_path / "run/metrics.json")["scores"]
    assert found.keys() == set(SPECIES) and found["tiny"].keys() == {"bpe", "kmer"}
    assert found["tiny"]["bpe"]["tokens"] > 20
    assert 0 < found["tiny"]["bpe"]["unigram_loss"] < math.log(len(UNION))
    data = [folder / "data"]
    evaluate_tokens(folder / "export-2", data, tmp_path / "export", "valid", 50, False)
    again = read_json(tmp_path / "export/metrics.json")["scores"]
    assert again["tiny"]["kmer"]["loss"] == pytest.approx(found["tiny"]["kmer"]["loss"], rel=1e-5)
    with pytest.raises(UserError, match="an export does not know its data; give --data"):
        evaluate_tokens(folder / "export-2", [], None, "valid", 3, False)


def test_a_genome_of_which_other_bases_may_train_is_refused(ran, folder, tmp_path):
    """Its stretches are told apart, also where windows, of which tokens know nothing, are not."""
    data = SpeciesGenome.open(folder / "data/tiny")
    assert data.manifest.sequence
    other = shutil.copytree(data.path, tmp_path / "tiny")
    sequence = data.manifest.sequence.model_copy(update={"hash": "0" * 64})
    save_manifest(other, data.manifest.model_copy(update={"sequence": sequence}))
    with pytest.raises(UserError, match="its splits are not those that"):
        evaluate_tokens(folder / "export-2", [other], tmp_path / "out", "valid", 3, False)
    evaluate_tokens(folder / "export-2", [other], tmp_path / "out", "valid", 3, True)


def test_scores_are_means_over_species_and_vocabularies():
    scores = {
        "ant": {"bpe": TokenScore(4.0, 1, 2, 4), "kmer": TokenScore(8.0, 0, 2, 1)},
        "bee": {"bpe": TokenScore(6.0, 2, 2, 3), "kmer": TokenScore(0, 0, 0, 0)},
    }
    found = logged(scores)  # pyright: ignore[reportArgumentType]
    assert found["valid/loss/ant"] == 3.0 and found["valid/loss/bee"] == 3.0
    assert found["valid/accuracy"] == pytest.approx((0.25 + 1) / 2)
    assert found["valid/bpe/bits_per_base/ant"] == pytest.approx(1 / math.log(2))
    assert math.isnan(found["valid/kmer/loss/bee"])


def run_from(folder, init):
    run(folder, "begun", zero=3, init=init)


def test_a_run_begins_where_an_export_ended(ran, folder):
    run_ranks(run_from, 1, folder, folder / "export-1")
    fresh, begun = (numbers_of(folder / name)[1]["train/loss"] for name in ("zero2-1", "begun"))
    assert begun < fresh - 0.5


# --- refusals ---


def test_resuming_with_another_vocabulary_is_refused_by_name(ran, folder, tmp_path):
    other = Vocabulary(UNION.names, 6, type(BPE)(BPE.tokens[:-1], BPE.merges[:-1]))
    (tmp_path / "other").mkdir()
    other.write(tmp_path / "other/vocabulary.json", {})
    for name in ("data", "stopped-1"):
        shutil.copytree(folder / name, tmp_path / name)
    with pytest.raises(Exception, match="other is not the vocabulary it was trained with"):
        run_ranks(resume_with, 1, folder, tmp_path, f"mlm.vocabulary={tmp_path / 'other'}")
    with pytest.raises(Exception, match=r"mlm.vocabularies was .* resume with the same"):
        run_ranks(resume_with, 1, folder, tmp_path, 'mlm.vocabularies=["kmer"]')


def resume_with(folder, place, change):
    shutil.copytree(folder / "vocab", place / "vocab", dirs_exist_ok=True)
    run(place, "stopped-1", change, zero=3, resume="must")


def test_ranks_must_agree_on_the_vocabulary(folder, tmp_path):
    with pytest.raises(Exception, match="vocabulary_sha256"):
        run_ranks(run_with_two_vocabularies, 2, folder, tmp_path)


def run_with_two_vocabularies(folder, place):
    from spacescale.parallel import comm

    mine = place / f"vocab-{comm.rank()}"
    mine.mkdir()
    merges = BPE.merges if comm.rank() else BPE.merges[:-1]
    Vocabulary(UNION.names, 6, type(BPE)(BPE.tokens, merges)).write(mine / "vocabulary.json", {})
    run(folder, "disagreeing", f"mlm.vocabulary={mine}")


@pytest.mark.parametrize(
    "changes, message",
    [
        (["mlm.vocabulary="], "mlm.vocabulary: name the vocabulary"),
        (["mlm.vocabulary=nowhere"], "nowhere"),
        (["mlm.shortest_bp=5"], "mlm.shortest_bp=5 is shorter than a word"),
        (["run.best_metric=valid/pearson_log1p"], "run.best_metric=valid/pearson_log1p.*there are"),
        (['data.species_importance={"ant": 2}'], "data.species_importance names ant"),
    ],
)
def test_what_does_not_fit_is_refused(folder, changes, message):
    objective = type(completed(folder)[0])(config_of(folder, *changes))
    with pytest.raises(UserError, match=message):
        objective.complete(objective.open([folder / "data"]))


def test_species_are_not_added_to_an_encoder(folder):
    with pytest.raises(Exception, match="--only-new add species to SPACE"):
        run_ranks(run, 1, folder, "added", "optim.only_new=true")


def test_equal_parts_of_vocabularies(folder):
    objective, datasets = completed(folder)
    with pytest.raises(UserError, match=r"3 sequences per process .* take a multiple of 2"):
        TokenWindows(datasets, UNION, objective.config, 3, 0, 1)

"""The model that also predicts hidden bases, held against the Space that it begins as."""

import math

import pytest
import torch
from tiny_models import some_codes, some_targets, tiny_config, tiny_model
from torch.nn.functional import cross_entropy

from spacescale.bases_config import BasesConfig
from spacescale.genome.dna import HIDDEN
from spacescale.model.bases_head import masked_cross_entropy
from spacescale.model.hybrid import OWN, Hidden, HybridSpace
from spacescale.model.space import Space

SIZES = {"finch": 3, "perch": 2}
LENGTH = 128


def hybrid(seed=0, moved=True, bases=None, **changes) -> HybridSpace:
    """In evaluation mode, with the weights of `tiny_model`; moved: its own away from 0."""
    model = HybridSpace(tiny_config(**changes), bases or BasesConfig()).eval()
    model.load_state_dict(tiny_model(seed, **changes).state_dict(), strict=False)
    torch.manual_seed(seed + 1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if moved and name.startswith(OWN):
                parameter += 0.1 * torch.randn_like(parameter)
    return model


def batch(seed=1):
    return {n: some_codes(size, seed=seed + i) for i, (n, size) in enumerate(SIZES.items())}


def hide(codes, windows, every=5):
    """Hide one of so many bases of these windows; the codes, and what the model is told."""
    given, hidden = {}, {}
    for name, part in codes.items():
        given[name], mine = part.clone(), windows.get(name, ())
        places = torch.arange(0, LENGTH * len(mine), every)
        masked = given[name][list(mine)].flatten()
        masked[places] = HIDDEN
        given[name][list(mine)] = masked.view(len(mine), LENGTH)
        hidden[name] = Hidden(tuple(mine), places, len(mine), len(part) - len(mine))
    return given, hidden


WINDOWS = {"finch": (0, 2), "perch": (1,)}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("code", ["channel", "zero"])
def test_it_begins_as_space_to_the_bit_whatever_is_hidden(code, training):
    config = tiny_config(dropout=0.1)
    torch.manual_seed(0)
    plain = Space(config).train(training)
    torch.manual_seed(0)
    model = HybridSpace(config, BasesConfig(code=code)).train(training)
    state = model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in plain.state_dict().items())
    given, hidden = hide(batch(), WINDOWS)
    torch.manual_seed(7)
    expected = plain(given)
    torch.manual_seed(7)
    found = model(given, hidden)
    for name in SIZES:
        assert torch.equal(found.prediction[name], expected.prediction[name])
    buffers = dict(model.named_buffers())
    assert all(torch.equal(b, buffers[n]) for n, b in plain.named_buffers())


def test_of_clean_input_it_is_space_whatever_the_code_has_learnt():
    codes, model = batch(), hybrid()
    expected = tiny_model()(codes)
    for found in (model(codes), model(*hide(codes, {}))):
        for name in SIZES:
            assert torch.equal(found.prediction[name], expected.prediction[name])


def test_a_fresh_head_finds_all_bases_as_likely():
    codes = batch()
    given, hidden = hide(codes, WINDOWS)
    with torch.no_grad():
        logits = hybrid(moved=False)(given, hidden).base_logits
    for name, windows in WINDOWS.items():
        bases = codes[name][list(windows)].flatten()[hidden[name].places].long().clamp(max=3)
        assert float(cross_entropy(logits[name], bases)) == pytest.approx(math.log(4), abs=1e-6)


def test_what_stood_under_the_mask_changes_nothing():
    model, codes = hybrid(), batch()
    given, hidden = hide(codes, WINDOWS)
    other = {name: part.clone() for name, part in codes.items()}
    for name, windows in WINDOWS.items():
        flat = other[name][list(windows)].flatten()
        flat[hidden[name].places] = (flat[hidden[name].places] + 1) % 4
        other[name][list(windows)] = flat.view(-1, LENGTH)
    again, _ = hide(other, WINDOWS)
    one, two = model(given, hidden), model(again, hidden)
    for name in SIZES:
        assert torch.equal(one.base_logits[name], two.base_logits[name])
        assert torch.equal(one.prediction[name], two.prediction[name])
    changed = {name: part.clone() for name, part in given.items()}
    changed["finch"][0, 51] = (changed["finch"][0, 51] + 1) % 4  # a base that is not hidden
    moved = (model(changed, hidden).base_logits["finch"] - one.base_logits["finch"]).abs().amax(1)
    assert moved[51 // 5] > 1e-4


def test_the_mask_code_tells_a_hidden_base_from_an_unknown_one():
    given, hidden = hide(batch(), WINDOWS)
    unknown = {name: part.clamp(max=4) for name, part in given.items()}
    for code, differs in (("channel", True), ("zero", False)):
        model = hybrid(bases=BasesConfig(code=code))
        one, two = model(given, hidden), model(unknown, hidden)
        assert torch.equal(one.base_logits["finch"], two.base_logits["finch"]) is not differs
        assert any(name.startswith("mask_code") for name, _ in model.named_parameters()) is differs


def test_logits_are_those_of_their_window_and_place():
    model = hybrid()
    given, hidden = hide(batch(), WINDOWS)
    together = model(given, hidden).base_logits
    for name, windows in WINDOWS.items():
        by_window = hidden[name].places // LENGTH
        for i, window in enumerate(windows):
            alone = {name: given[name][window : window + 1]}
            places = hidden[name].places[by_window == i] - i * LENGTH
            expected = model(alone, {name: Hidden((0,), places, 1, 0)}).base_logits[name]
            torch.testing.assert_close(together[name][by_window == i], expected)


def test_species_come_in_the_models_order():
    model = hybrid()
    given, hidden = hide(batch(), WINDOWS)
    turned = {name: given[name] for name in reversed(given)}
    one, two = model(given, hidden), model(turned, hidden)
    for name in SIZES:
        assert torch.equal(one.base_logits[name], two.base_logits[name])


@pytest.mark.parametrize("windows", [WINDOWS, {"perch": (0,)}, {}])
def test_every_parameter_takes_part_whatever_is_hidden(windows):
    model = hybrid().train()
    given, hidden = hide(batch(), windows)
    output = model(given, hidden)
    logits = torch.cat(list(output.base_logits.values()))
    loss = sum(some.sum() for some in output.prediction.values()) + logits.square().sum()
    loss.backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    head = sum(float(p.grad.abs().sum()) for n, p in model.named_parameters() if n.startswith(OWN))
    assert (head > 0) is bool(windows)


def test_a_pass_without_masks_leaves_the_heads_statistics_alone():
    model = hybrid().train()
    before = {n: b.clone() for n, b in model.bases_head.named_buffers()}
    model(*hide(batch(), {}))
    assert all(torch.equal(b, before[n]) for n, b in model.bases_head.named_buffers())
    model(*hide(batch(), WINDOWS))
    assert any(not torch.equal(b, before[n]) for n, b in model.bases_head.named_buffers())


def running(model):
    return {n: b.clone() for n, b in model.named_buffers() if "running" in n}


def test_apart_only_clean_windows_are_kept_in_the_statistics():
    codes = batch()
    given, hidden = hide(codes, WINDOWS)
    model = hybrid(bases=BasesConfig(batchnorm="apart")).train()
    model(given, hidden)
    clean_rows = {"finch": (1,), "perch": (0,)}
    alone = hybrid().train()
    clean = {name: codes[name][list(rows)] for name, rows in clean_rows.items()}
    alone(*hide(clean, {}))
    # Attention of other windows does not reach these: statistics are those of clean ones alone.
    for name, found in running(model).items():
        if not name.startswith(OWN):
            torch.testing.assert_close(found, running(alone)[name], rtol=1e-5, atol=1e-6)
    together = hybrid().train()
    together(given, hidden)
    assert any(
        not torch.allclose(b, running(together)[n])
        for n, b in running(model).items()
        if not n.startswith(OWN)
    )


def test_apart_each_window_keeps_its_place():
    """Groups of windows that were all alike normalise as one group would."""
    given, hidden = hide({"finch": some_codes(1).repeat(4, 1)}, {"finch": (1, 3)}, every=999)
    given["finch"][[1, 3]] = given["finch"][[0, 0]]  # not hidden after all
    apart = hybrid(bases=BasesConfig(batchnorm="apart")).train()(given, hidden)
    together = hybrid().train()(given, hidden)
    torch.testing.assert_close(apart.prediction["finch"], together.prediction["finch"])
    mixed, told = hide(batch(), WINDOWS)
    model = hybrid(bases=BasesConfig(batchnorm="apart"))
    for name in SIZES:  # in evaluation it makes no difference
        expected = hybrid()(mixed, told).prediction[name]
        assert torch.equal(model(mixed, told).prediction[name], expected)


def test_apart_in_each_species():
    """Each of four groups as if it had been alone; the clean ones alone are kept."""
    codes = batch()
    given, hidden = hide(codes, WINDOWS)
    options = {"bases": BasesConfig(batchnorm="apart"), "batchnorm": "per_species"}
    model = hybrid(**options).train()
    found = model(given, hidden)
    for name, masked in WINDOWS.items():
        clean = tuple(row for row in range(SIZES[name]) if row not in masked)
        for rows, told in ((masked, {name: range(len(masked))}), (clean, {})):
            part = {name: codes[name][list(rows)]}
            alone = hybrid().train()(*hide(part, told))
            expected = found.prediction[name][list(rows)]
            torch.testing.assert_close(alone.prediction[name], expected, rtol=1e-4, atol=1e-5)
    kept = hybrid(batchnorm="per_species").train()
    kept(*hide({"finch": codes["finch"][[1]], "perch": codes["perch"][[0]]}, {}))
    for name, statistic in running(model).items():
        if not name.startswith(OWN):
            torch.testing.assert_close(statistic, running(kept)[name], rtol=1e-5, atol=1e-6)


def test_recomputed_stages_give_the_same_gradients():
    grads = []
    for stages in ((), ("stem", "conv_tower", "pointwise")):
        model = hybrid(checkpoint_stages=stages).train()
        given, hidden = hide(batch(), WINDOWS)
        output = model(given, hidden)
        targets = some_targets(output)
        loss = torch.cat(list(output.base_logits.values())).square().sum()
        loss = loss + sum((output.prediction[n] * targets[n]).sum() for n in SIZES)
        loss.backward()
        grads.append({n: p.grad for n, p in model.named_parameters()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, rtol=1e-4, atol=1e-5)


def test_the_loss_is_a_mean_over_all_ranks_hidden_bases():
    logits, bases = torch.randn(12, 4), torch.randint(0, 4, (12,))
    weights = torch.ones(12)
    weights[::3] = 0.1
    expected = (cross_entropy(logits, bases, reduction="none") * weights).mean()
    ranks = [slice(0, 2), slice(2, 12)]
    per_rank = torch.tensor(12 / 2)
    parts = [masked_cross_entropy(logits[r], bases[r], weights[r], per_rank) for r in ranks]
    torch.testing.assert_close(sum(parts) / 2, expected)
    none = masked_cross_entropy(logits[:0], bases[:0], weights[:0], torch.tensor(0.0))
    assert float(none) == 0


@pytest.mark.parametrize("decoder", ["moe", "mlp", "none"])
def test_every_parameter_takes_part_in_a_pass_of_a_species_without_tracks(decoder):
    species = {"wren": (), **tiny_config().species}
    model = HybridSpace(tiny_config(species=species, decoder=decoder), BasesConfig()).train()
    codes = {"wren": some_codes(2)}
    given, hidden = hide(codes, {"wren": (0, 1)})
    output = model(given, hidden)
    assert not output.prediction and output.decoder_routing is None
    logits = output.base_logits["wren"]
    with torch.no_grad():  # what is added for the gradients alone is nothing
        assert torch.equal(logits, torch.zeros_like(logits))
        model.bases_head.logits.weight += 1
    logits = model(given, hidden).base_logits["wren"]
    cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long)).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert not without
    moved = {name.split(".")[0] for name, p in model.named_parameters() if p.grad.any()}
    assert moved == {"stem", "conv_tower", "transformer", "bases_head", "mask_code"}
    with pytest.raises(ValueError, match="'wren' has no tracks"):
        model(codes)

"""Whose windows share BatchNorm's statistics, and what running statistics see."""

import pytest
import torch
from tiny_models import some_codes, tiny_model
from torch import Tensor

from spacescale.model import Space


def codes() -> dict[str, Tensor]:
    return {"finch": some_codes(2), "perch": some_codes(3, seed=5)}


def running(model: Space) -> dict[str, Tensor]:
    return {
        name: buffer.clone()
        for name, buffer in model.named_buffers()
        if "running" in name or "tracked" in name
    }


def embeddings(model: Space, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return model(batch).embedding


def test_per_species_equals_one_pass_after_the_other():
    together, apart = (tiny_model(batchnorm="per_species").train() for _ in range(2))
    mixed = embeddings(together, codes())
    separate = {name: embeddings(apart, {name: part})[name] for name, part in codes().items()}
    torch.testing.assert_close(mixed, separate)
    torch.testing.assert_close(running(together), running(apart))
    assert running(together)["stem.1.block.0.num_batches_tracked"] == 2


def test_mixed_statistics_are_those_of_the_whole_batch():
    """The species' windows are one batch: which species a window is of changes nothing."""
    model, other = (tiny_model(species_num_experts=0, species_token=False) for _ in range(2))
    model.train(), other.train()
    whole = torch.cat(list(codes().values()))
    found = torch.cat(list(embeddings(model, codes()).values()))
    torch.testing.assert_close(found, embeddings(other, {"finch": whole})["finch"])
    torch.testing.assert_close(running(model), running(other))
    assert running(model)["stem.1.block.0.num_batches_tracked"] == 1


def test_the_two_choices_differ_in_training_and_agree_in_evaluation():
    mixed, apart = tiny_model(), tiny_model(batchnorm="per_species")
    with torch.no_grad():
        torch.testing.assert_close(embeddings(mixed, codes()), embeddings(apart, codes()))
        mixed.train(), apart.train()
        difference = embeddings(mixed, codes())["finch"] - embeddings(apart, codes())["finch"]
    assert difference.abs().max() > 1e-2


STAGES = ("stem", "conv_tower", "transformer", "pointwise", "decoder")


@pytest.mark.parametrize("stages", [*((stage,) for stage in STAGES), STAGES])
def test_recomputed_stages_change_nothing(stages):
    """The same loss, gradients, dropout and running statistics, whichever stages are recomputed."""
    results = []
    for kept in ((), stages):
        model = tiny_model(checkpoint_stages=kept, dropout=0.3, attn_dropout=0.1).train()
        torch.manual_seed(3)
        loss = sum(p.square().mean() for p in model(codes()).prediction.values())
        loss.backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        results.append((loss, gradients, running(model)))
    torch.testing.assert_close(results[0], results[1])


def kept_bytes(model: Space) -> int:
    kept = {}
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(codes())
    assert output.prediction
    return sum(kept.values())


@pytest.mark.parametrize("stage", ["stem", "conv_tower", "transformer", "decoder"])
def test_recomputed_stages_keep_less(stage):
    tracks = dict.fromkeys(codes(), ("cage", "tf_chip") * 20)
    everything = kept_bytes(tiny_model(species=tracks).train())
    assert kept_bytes(tiny_model(species=tracks, checkpoint_stages=(stage,)).train()) < everything

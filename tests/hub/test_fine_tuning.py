"""What the tools around transformers do with the loaded class: peft, accelerate, fresh weights."""

import pytest
import torch
from small_models import WINDOW
from tiny_models import some_codes

from spacescale.model.space import Space
from spacescale.space_config import ModelConfig

transformers = pytest.importorskip("transformers", minversion="5")
peft = pytest.importorskip("peft")
pytest.importorskip("accelerate")
CODES = some_codes(2, WINDOW)


def load(folder, **options):
    return transformers.AutoModel.from_pretrained(folder, trust_remote_code=True, **options)


def tracks(model):
    with torch.no_grad():
        return model(CODES, species="finch").tracks


ADAPTERS = {
    "attention": ({"target_modules": ["to_q", "to_v"]}, 8),
    "stacked experts": (
        {"target_modules": [], "target_parameters": ["experts.w1", "experts.w2", "experts.w3"]},
        18,
    ),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_learn_are_saved_and_merged(name, hub_folder, tmp_path):
    settings, count = ADAPTERS[name]
    before = tracks(load(hub_folder))
    model = peft.get_peft_model(load(hub_folder), peft.LoraConfig(r=2, **settings))
    torch.testing.assert_close(tracks(model.eval()), before)
    learning = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert len(learning) == count and all("lora" in n for n in learning)
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if n not in learning}
    optimiser = torch.optim.SGD(learning.values(), lr=0.5)
    for _ in range(2):  # of A and B one is zero at first, and so is the other's gradient
        optimiser.zero_grad()
        model(CODES, species="finch").tracks.square().mean().backward()
        optimiser.step()
    assert [n for n, p in learning.items() if not p.grad.abs().sum() > 0] == []
    assert all(torch.equal(dict(model.named_parameters())[n], p) for n, p in frozen.items())
    after = tracks(model.eval())
    assert (after - before).abs().max() > 1e-3
    model.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(load(hub_folder), tmp_path / "adapter").eval()
    torch.testing.assert_close(tracks(again), after)
    torch.testing.assert_close(tracks(again.merge_and_unload()), after, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("where", ["auto", "cpu", {"": "cpu"}])
def test_devices_are_mapped(hub_folder, where):
    torch.testing.assert_close(tracks(load(hub_folder, device_map=where)), tracks(load(hub_folder)))


def test_blocks_on_the_disk_compute_the_same(hub_folder, tmp_path):
    """Weights that are there only while they are needed, as of a model too large for a device."""
    known = load(hub_folder)
    parts = {f"space.{name}": "cpu" for name, _ in known.space.named_children()}
    where = parts | {"space.transformer": "disk"}
    model = load(hub_folder, device_map=where, offload_folder=tmp_path / "disk")
    assert model.space.transformer[0].norm.weight.device.type == "meta"
    torch.testing.assert_close(tracks(model), tracks(known))


def test_fresh_weights_are_those_of_our_own_class(hub_folder):
    """Drawn in the same order: alike not only in distribution."""
    config = transformers.AutoConfig.from_pretrained(hub_folder, trust_remote_code=True)
    torch.manual_seed(3)
    theirs = transformers.AutoModel.from_config(config, trust_remote_code=True).space.state_dict()
    torch.manual_seed(3)
    ours = Space(ModelConfig(**config.model)).state_dict()
    assert theirs.keys() == ours.keys()
    assert [name for name, tensor in ours.items() if not torch.equal(theirs[name], tensor)] == []
    token = ours["species_token.weight"]
    assert float(ours["transformer.0.attention.to_out.weight"].abs().max()) == 0
    assert 0.7 < float(token.std()) < 1.3 and abs(float(token.mean())) < 0.3

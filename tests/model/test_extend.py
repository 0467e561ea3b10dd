import pytest
import torch
from tiny_models import SPECIES, some_codes, tiny_model

from spacescale.model import add_species

MOTH = ("cage", "atac", "tf_chip", "splicing")  # two new types, one before and one between the old


def codes() -> dict[str, torch.Tensor]:
    return {"finch": some_codes(2), "perch": some_codes(1, seed=5)}


@pytest.mark.parametrize("changes", [{}, {"decoder": "none"}, {"species_token": False}])
def test_the_known_species_are_predicted_as_before(changes):
    model = tiny_model(**changes)
    extended = add_species(model, "moth", MOTH, like="perch")
    assert list(extended.config.species) == [*SPECIES, "moth"]
    assert not extended.training
    with torch.no_grad():
        before, after = model(codes()), extended(codes())
        new = extended({"moth": some_codes(2)}).prediction["moth"]
    assert new.shape == (2, 10, 4) and new.isfinite().all()
    for name in SPECIES:
        torch.testing.assert_close(after.prediction[name], before.prediction[name])


def test_a_new_species_starts_like_the_one_named():
    model = tiny_model(decoder="none")
    extended = add_species(model, "moth", ("cage",), like="perch")
    with torch.no_grad():
        output = extended({"moth": some_codes(2), "perch": some_codes(2)})
    torch.testing.assert_close(output.embedding["moth"], output.embedding["perch"])


def test_without_a_likeness_it_starts_at_the_mean():
    model = tiny_model()
    extended = add_species(model, "moth", ("cage",))
    token = model.species_token.weight.mean(0)
    torch.testing.assert_close(extended.species_token.weight[2], token)
    router = extended.transformer[1].moe.router.weight
    torch.testing.assert_close(router[2], model.transformer[1].moe.router.weight.mean(0))


def test_an_extended_model_trains_the_new_species():
    extended = add_species(tiny_model().train(), "moth", MOTH)
    assert extended.training
    extended({"moth": some_codes(2)}).prediction["moth"].sum().backward()
    assert extended.heads["moth"].weight.grad.any()
    assert extended.species_token.weight.grad[2].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("finch", ("cage",)), "species 'finch': the model knows it already"),
        (("moth", ("cage",), "newt"), r"like='newt': this model knows \['finch', 'perch'\]"),
    ],
)
def test_what_cannot_be_added_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        add_species(tiny_model(), *arguments)

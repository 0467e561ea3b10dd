import torch

from spacescale.metrics.routing import ExpertUse


def use() -> ExpertUse:
    return ExpertUse(["finch", "moth"], ["cage", "chip"], 3, 4, 2)


def one_pass(seed: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    encoder = [torch.rand(2, 4, generator=generator) for _ in range(3)]
    decoder = torch.rand(4, 2, generator=generator)
    decoder[3] = 0  # the moth has no chip track
    return encoder, decoder


def test_shares_are_per_species_and_layer():
    total = use()
    encoder, decoder = one_pass(0)
    total.update(encoder, decoder)
    shares = total.encoder_shares()
    assert list(shares) == ["finch", "moth"]
    expected = encoder[2][1].double() / encoder[2][1].double().sum()
    torch.testing.assert_close(shares["moth"][2], expected)
    of_decoder = total.decoder_shares()
    assert list(of_decoder) == [("finch", "cage"), ("finch", "chip"), ("moth", "cage")]
    expected = decoder[2].double() / decoder[2].double().sum()
    torch.testing.assert_close(of_decoder["moth", "cage"], expected)


def test_addition_is_the_same_as_more_updates():
    both, first, second = use(), use(), use()
    for seed, part in ((0, first), (1, second)):
        part.update(*one_pass(seed))
        both.update(*one_pass(seed))
    for got, expected in zip((first + second).tensors(), both.tensors(), strict=True):
        assert torch.equal(got, expected)


def test_sums_can_be_reduced_in_place():
    total = use()
    total.update(*one_pass(0))
    before = total.encoder_shares()["finch"]
    for part in total.tensors():
        part *= 2
    torch.testing.assert_close(total.encoder_shares()["finch"], before)


def test_a_model_without_experts():
    dense = ExpertUse(["finch"], ["cage"], 0, 0, 0)
    dense.update([], None)
    assert dense.encoder_shares() == {}
    assert dense.decoder_shares() == {}

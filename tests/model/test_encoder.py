"""The token encoder: ALiBi by hand, a pass written out, its size, padding, tied weights."""

import math

import pytest
import torch
from pydantic import ValidationError

from spacescale.encoder_config import EncoderConfig
from spacescale.model.encoder import Encoder, alibi_slopes, attention_bias
from spacescale.parallel.engine import NO_DECAY_MARKS
from spacescale.presets import ENCODERS

SMALL = {"vocab_size": 20, "dim": 12, "depth": 2, "heads": 3, "ffn_dim": 16}
INF = math.inf


def small(seed=0, **changes) -> Encoder:
    """In evaluation mode and float64; every weight, biases too, is made to count."""
    torch.manual_seed(seed)
    model = Encoder(EncoderConfig(**(SMALL | changes))).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model


def some_ids(*shape, seed=1):
    return torch.randint(0, 20, shape, generator=torch.Generator().manual_seed(seed))


def everything(ids):
    return torch.ones_like(ids, dtype=torch.bool)


# --- ALiBi ---


@pytest.mark.parametrize(
    "heads, exponents",
    [
        (1, [8]),
        (4, [2, 4, 6, 8]),
        (8, [1, 2, 3, 4, 5, 6, 7, 8]),
        (12, [1, 2, 3, 4, 5, 6, 7, 8, 0.5, 1.5, 2.5, 3.5]),
        (16, [n / 2 for n in range(1, 17)]),
    ],
)
def test_slopes(heads, exponents):
    assert alibi_slopes(heads) == pytest.approx([2**-exponent for exponent in exponents])


def test_bias_by_hand():
    attended = torch.tensor([[True, True, True], [True, True, False]])
    bias = attention_bias(2, attended, torch.float64)
    a, b = 2**-4, 2**-8
    first = [[[0, -s, -2 * s], [-s, 0, -s], [-2 * s, -s, 0]] for s in (a, b)]
    padded = [[[0, -s, -INF], [-s, 0, -INF], [-2 * s, -s, -INF]] for s in (a, b)]
    assert bias.tolist() == [first, padded]


# --- a pass, written out ---


def layer_norm(x, module):
    centred = x - x.mean(-1, keepdim=True)
    variance = (centred**2).mean(-1, keepdim=True)
    return centred / (variance + 1e-12).sqrt() * module.weight + module.bias


def gelu(x):
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def written_out(model: Encoder, ids: torch.Tensor) -> torch.Tensor:
    """Logits (N, V) of one sequence, from the description of the model."""
    x = layer_norm(model.words.weight[ids] + model.segments.weight[0], model.norm)
    n, dim = x.shape
    heads, width = model.config.heads, dim // model.config.heads
    slopes = {1: [2**-8], 3: [2**-4, 2**-8, 2**-2]}[heads]
    for layer in model.layers:
        qkv = layer.attention.qkv.weight, layer.attention.qkv.bias
        q, k, v = (x @ qkv[0][i : i + dim].T + qkv[1][i : i + dim] for i in range(0, 3 * dim, dim))
        heads_out = []
        for head, slope in enumerate(slopes):
            part = slice(head * width, (head + 1) * width)
            logits = q[:, part] @ k[:, part].T / math.sqrt(width)
            for i in range(n):
                for j in range(n):
                    logits[i, j] -= slope * abs(i - j)
            heads_out.append(logits.softmax(-1) @ v[:, part])
        out = layer.attention.output
        x = layer_norm(x + torch.cat(heads_out, 1) @ out.weight.T + out.bias, layer.attention_norm)
        gated, out = layer.feed_forward.gated.weight, layer.feed_forward.output
        width_ffn = len(gated) // 2
        hidden = gelu(x @ gated[:width_ffn].T) * (x @ gated[width_ffn:].T)
        x = layer_norm(x + hidden @ out.weight.T + out.bias, layer.feed_forward_norm)
    head = model.head
    x = layer_norm(gelu(x @ head.dense.weight.T + head.dense.bias), head.norm)
    return x @ model.words.weight.T + head.bias


@pytest.mark.parametrize("changes", [{}, {"heads": 1, "depth": 1}])
def test_logits_are_those_of_the_pass_written_out(changes):
    model, ids = small(**changes), some_ids(2, 9)
    with torch.no_grad():
        found = model(ids, everything(ids), everything(ids)).reshape(2, 9, 20)
        expected = torch.stack([written_out(model, row) for row in ids])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


# --- size ---


@pytest.mark.parametrize(
    "preset, vocab_size, parameters",
    [
        ("genomics_fm_base", 7266, 119_511_906),
        ("genomics_fm_large", 7266, 411_377_762),
        ("genomics_fm_tiny", 7266, 6_138_210),
        ("genomics_fm_base", 4096, 117_074_176),
    ],
)
def test_published_sizes(preset, vocab_size, parameters):
    with torch.device("meta"):
        model = Encoder(EncoderConfig(vocab_size=vocab_size, **ENCODERS[preset]))
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_heads_must_divide_the_channels():
    with pytest.raises(ValidationError, match="dim=12 must be divisible by heads=5"):
        EncoderConfig(**(SMALL | {"heads": 5}))


# --- padding, length, selection ---


def test_what_fills_rows_up_changes_nothing():
    model, ids = small(), some_ids(1, 6)
    padded = torch.cat([ids, some_ids(1, 5, seed=2)], dim=1)
    attended = torch.arange(11)[None] < 6
    with torch.no_grad():
        alone, beside = model.states(ids, everything(ids)), model.states(padded, attended)
    torch.testing.assert_close(beside[:, :6], alone)


def test_tokens_far_beyond_any_length_of_training():
    model, ids = small(depth=1), some_ids(1, 1500)
    with torch.no_grad():
        assert model.states(ids, everything(ids)).isfinite().all()


def test_only_selected_tokens_get_logits_in_their_order():
    model, ids = small(), some_ids(3, 5)
    selected = torch.zeros(3, 5, dtype=torch.bool)
    selected[0, 3] = selected[2, 0] = selected[2, 4] = True
    with torch.no_grad():
        found = model(ids, everything(ids), selected)
        logits = model(ids, everything(ids), everything(ids)).reshape(3, 5, 20)
    torch.testing.assert_close(found, logits[selected])


def test_every_weight_takes_part_even_where_nothing_is_selected():
    model, ids = small(), some_ids(1, 4)
    found = model(ids, everything(ids), torch.zeros(1, 4, dtype=torch.bool))
    assert found.shape == (0, 20)
    found.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


# --- training ---


def test_embeddings_learn_as_input_and_as_output():
    model, ids = small(), some_ids(1, 4)
    logits = model(ids, everything(ids), everything(ids))
    torch.nn.functional.cross_entropy(logits, ids[0]).backward()
    gradient = model.words.weight.grad
    assert gradient is not None
    unread = [i for i in range(20) if i not in ids[0]]
    assert (gradient[unread].abs().sum(1) > 0).all(), "as output"
    frozen = torch.autograd.grad(
        model.head(model.states(ids, everything(ids))[0], model.words.weight.detach()).sum(),
        model.words.weight,
    )[0]
    assert (frozen[ids[0]].abs().sum(1) > 0).all() and not frozen[unread].any(), "as input"


def test_the_first_loss_is_that_of_guessing():
    torch.manual_seed(0)
    model = Encoder(EncoderConfig(vocab_size=512, dim=64, depth=2, heads=4)).eval()
    ids = torch.randint(0, 512, (4, 60))
    with torch.no_grad():
        logits = model(ids, everything(ids), everything(ids))
    labels = torch.randint(0, 512, (240,))
    loss = torch.nn.functional.cross_entropy(logits, labels)
    assert loss.item() == pytest.approx(math.log(512), abs=0.05)


@pytest.mark.parametrize("kind", ["dropout", "attn_dropout"])
def test_dropout_is_of_training_alone(kind):
    model, ids = small(**({"dropout": 0.0} | {kind: 0.5})), some_ids(2, 6)
    runs = [model.states(ids, everything(ids)) for _ in range(2)]
    assert torch.equal(*runs)
    model.train()
    assert not torch.equal(*(model.states(ids, everything(ids)) for _ in range(2)))


def test_embeddings_attention_and_feed_forwards_are_dropped_out():
    model, ids, reached = small(), some_ids(1, 4), []
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Dropout):
            module.register_forward_hook(lambda *_, name=name: reached.append(name))
    model.states(ids, everything(ids))
    of_a_layer = ("dropout", "feed_forward.dropout")
    assert reached == ["dropout", *(f"layers.{n}.{place}" for n in (0, 1) for place in of_a_layer)]


def test_a_pass_in_bfloat16_is_near():
    model, ids = small().float(), some_ids(2, 40)
    with torch.no_grad():
        wide = model(ids, everything(ids), everything(ids))
        with torch.autocast("cpu", torch.bfloat16):
            narrow = model(ids, everything(ids), everything(ids))
    assert narrow.dtype == torch.bfloat16
    assert (narrow - wide).abs().mean() < 0.05 * wide.std()


def test_weight_decay_takes_all_matrices_embeddings_too():
    matrices = [name for name, p in small().named_parameters() if p.ndim > 1]
    assert matrices and not [n for n in matrices if any(mark in n for mark in NO_DECAY_MARKS)]

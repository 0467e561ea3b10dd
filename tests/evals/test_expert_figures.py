"""Figures of experts: shares by species and assay, and what they tell over training."""

import matplotlib.image
import numpy as np
import pytest

from spacescale.evals import experts
from spacescale.evals.experts import draw_information, information, mutual_information

RNG = np.random.default_rng(0)


def drawn(monkeypatch) -> dict:
    """Figures by the names of their files, kept in place of being written."""
    kept = {}
    monkeypatch.setattr(experts, "save", lambda figure, path: kept.update({path.name: figure}))
    return kept


@pytest.mark.parametrize("parts", ["both", "species", "assays"])
def test_expert_use(tmp_path, parts):
    path = tmp_path / "experts.png"
    per_species = {name: RNG.dirichlet(np.ones(4), 2) for name in ("finch", "moth")}
    per_species["moth"][0] = np.nan
    per_assay = {("finch", "cage"): RNG.dirichlet(np.ones(12))}
    experts.expert_use(
        path,
        {"finch": np.empty((0, 0))} if parts == "assays" else per_species,
        {} if parts == "species" else per_assay,
    )
    pixels = matplotlib.image.imread(path)
    assert min(pixels.shape[:2]) > 200 and pixels[..., :3].std() > 0.01


def test_assays_are_rows_and_species_panels(tmp_path, monkeypatch):
    kept, assays = drawn(monkeypatch), [f"assay_{i:02}" for i in range(14)]
    shares = {("finch", assay): RNG.dirichlet(np.ones(8)) for assay in assays}
    shares |= {("moth", assay): RNG.dirichlet(np.ones(8)) for assay in assays[9:]}
    experts.expert_use(tmp_path / "e.png", {}, shares)
    finch, moth = (axes for axes in kept["e.png"].axes if axes.get_title())
    assert [label.get_text() for label in finch.get_yticklabels()] == assays
    found = moth.images[0].get_array()
    assert np.ma.getmaskarray(found)[:9].all()
    np.testing.assert_array_equal(found[9], shares["moth", assays[9]])
    assert len(moth.texts) == 5 * 8 and kept["e.png"].get_figheight() / 14 > 0.3


def test_information_is_that_of_the_joint_distribution():
    assert mutual_information(np.eye(4)) == pytest.approx(np.log(4))
    assert mutual_information(np.full((3, 5), 0.2)) == pytest.approx(0)
    shares = RNG.dirichlet(np.ones(5), 3)
    joint = shares / 3
    outer = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    assert mutual_information(shares) == pytest.approx((joint * np.log(joint / outer)).sum())


def logged(step, **shares):
    """A line of metrics.jsonl; keys as finch__block0, of lists of shares."""
    return {"step": step, "valid/pearson_log1p": 0.5} | {
        f"valid_experts/{key.replace('__', '/')}/expert{e}": share
        for key, of in shares.items()
        for e, share in enumerate(of)
    }


def test_information_is_read_from_validations():
    own, same = {"a": [1, 0], "b": [0, 1]}, {"a": [0.5, 0.5], "b": [0.5, 0.5]}
    first = {f"{s}__block0": of for s, of in same.items()}
    second = {f"{s}__block{b}": of for b, use in enumerate((own, same)) for s, of in use.items()}
    decoder = {"a__decoder__cage": [1, 0, 0], "a__decoder__rna": [0, 1, 0],
               "b__decoder__cage": [0, 0, 1]}  # fmt: skip
    records = [{"step": 1, "train/loss": 2.0}, logged(2, **first), logged(4, **second, **decoder)]
    found = information(records)
    steps, nats = found["encoder"]
    assert steps.tolist() == [2, 4] and nats == pytest.approx([0, np.log(2) / 2])
    steps, nats = found["decoder"]
    assert steps.tolist() == [4] and nats == pytest.approx([np.log(3)])


def test_a_single_species_tells_nothing_apart():
    assert information([logged(2, a__block0=[0.9, 0.1], a__decoder__cage=[1, 0])]) == {}
    assert information([]) == {}


def test_each_run_has_a_line_and_each_arm_a_colour(tmp_path, monkeypatch):
    kept = drawn(monkeypatch)
    curve = {"encoder": (np.array([1.0, 2.0]), np.array([0.1, 0.2]))}
    draw_information(tmp_path / "m.png", {"full": [curve, curve], "dense": [{}], "gate": [curve]})
    (axes,) = kept["m.png"].axes
    colours = [line.get_color() for line in axes.lines]
    assert colours[0] == colours[1] != colours[2]
    assert [text.get_text() for text in kept["m.png"].legends[0].get_texts()] == ["full", "gate"]
    draw_information(tmp_path / "none.png", {"dense": [{}]})
    assert "none.png" not in kept

import json

import numpy as np
import pytest

from spacescale.evals import curves
from spacescale.evals.curves import loss_curves


@pytest.fixture
def draw(tmp_path, monkeypatch):
    """The figure of these records of metrics.jsonl."""
    kept = []
    monkeypatch.setattr(curves, "save", lambda figure, path: kept.append(figure))

    def of(records):
        log = tmp_path / "metrics.jsonl"
        log.write_text("".join(json.dumps({"time": 0.0} | record) + "\n" for record in records))
        loss_curves(tmp_path / "curves.png", log)
        return kept[-1]

    return of


def panels(figure):
    return {axes.get_title(loc="left"): axes for axes in figure.axes if axes.axison}


def lines(axes):
    return {line.get_label(): line.get_xydata().tolist() for line in axes.lines}


def test_each_species_has_its_training_and_validation_loss(draw):
    found = panels(
        draw(
            [
                {"step": 1, "train/loss": 2.0, "train/loss/finch": 1.5, "train/windows/perch": 0},
                {"step": 2, "nonfinite/gradient_norm": 1.0},
                {"step": 3, "train/loss": None, "train/loss/finch": 1.1, "train/loss/perch": 4.0},
                {"step": 4, "valid/pearson_log1p": 0.4, "valid/pearson_log1p/finch": 0.5,
                 "valid/pearson_log1p/finch/cage": 0.1, "valid/loss": 1.0,
                 "valid/loss/finch": 1.3, "valid/gap/finch": -0.1},
            ]
        )
    )  # fmt: skip
    assert list(found) == [
        "all species: the sum that is trained on", "finch", "perch",
        "validation: Pearson r, log1p scale",
    ]  # fmt: skip
    assert lines(found["finch"]) == {"training": [[1, 1.5], [3, 1.1]], "validation": [[4, 1.3]]}
    assert lines(found["perch"]) == {"training": [[3, 4.0]]}
    accuracy = lines(found["validation: Pearson r, log1p scale"])
    assert accuracy == {"mean of species": [[4, 0.4]], "finch": [[4, 0.5]]}


def test_means_are_over_as_many_points_as_the_title_says(draw):
    """90 points: means over 3, by the windows that each holds; none over fewer."""
    values, counts = np.arange(90.0), 1 + np.arange(90) % 4
    figure = draw(
        {"step": i + 1, "train/loss": v, "train/loss/finch": v, "train/windows/finch": int(n)}
        for i, (v, n) in enumerate(zip(values, counts, strict=True))
    )
    assert "means over 3 logged points" in figure.get_suptitle()
    total, finch = list(panels(figure).values())[:2]
    assert lines(total)["training"][0] == [3, pytest.approx(1.0)]
    smooth = lines(finch)["training"]
    assert len(smooth) == 88
    assert smooth[0] == [3, pytest.approx((0 * 1 + 1 * 2 + 2 * 3) / 6)]
    assert smooth[-1] == [90, pytest.approx((87 * 4 + 88 * 1 + 89 * 2) / 7)]


def test_few_points_are_drawn_as_they_are_and_nothing_is_claimed(draw):
    figure = draw({"step": i, "train/loss": 1.0 / i} for i in range(1, 40))
    assert "means over" not in figure.get_suptitle()
    (line,) = figure.axes[0].lines
    assert len(line.get_xdata()) == 39


def test_a_run_that_logged_nothing(draw):
    (first, second) = panels(draw([])).values()
    assert [text.get_text() for text in first.texts + second.texts] == ["not logged yet"] * 2

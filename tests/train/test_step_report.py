import math

import pytest
import torch

from spacescale.model.species_loss import SpeciesLoss
from spacescale.objectives import Losses
from spacescale.parallel import comm
from spacescale.train.interval_losses import LossSum
from spacescale.train.step_report import StepReport, StepSummary

CPU = torch.device("cpu")


def add(report: StepReport, per_species: dict[str, tuple[int, float]], mi: float = 0.0) -> None:
    """Add a micro-step of ranks alike: species → windows of each and their mean loss."""
    windows = {name: count for name, (count, _) in per_species.items()}
    of_species = {
        name: SpeciesLoss(torch.tensor(loss), count, 1.0)
        for name, (count, loss) in per_species.items()
    }
    total = sum(loss * count for count, loss in per_species.values()) / sum(windows.values()) + mi
    terms = {"encoder_mi": torch.tensor(mi)}
    report.add(Losses(torch.tensor(total), terms, of_species), windows)


def gather(reports: list[StepReport], signals: list[int], monkeypatch) -> list[StepSummary]:
    """What the ranks' reports become when every rank sees every row."""
    rows: list[torch.Tensor] = []

    def keep(row: torch.Tensor) -> torch.Tensor:
        rows.append(row)
        return row[None]

    monkeypatch.setattr(comm, "gather_rows", keep)
    for report, signal in zip(reports, signals, strict=True):
        report.gather(signal, True)
    together = torch.stack(rows)
    monkeypatch.setattr(comm, "gather_rows", lambda row: together)
    return [report.gather(s, True) for report, s in zip(reports, signals, strict=True)]


def test_species_loss_is_a_mean_over_windows_not_over_micro_steps():
    report = StepReport(["finch", "perch"], CPU)
    add(report, {"finch": (2, 1.0), "perch": (1, 4.0)})
    add(report, {"finch": (1, 7.0)})
    summary = report.gather(0, True)
    assert summary.species == {"finch": LossSum(1 + 1 + 7, 3, 3), "perch": LossSum(4, 1, 1)}
    assert list(summary.losses) == ["train/encoder_mi", "train/loss"]
    assert summary.windows == 4


def test_total_and_routing_terms_are_means_over_micro_steps():
    report = StepReport(["finch"], CPU)
    add(report, {"finch": (2, 1.0)}, mi=-0.5)
    add(report, {"finch": (2, 3.0)}, mi=-0.1)
    losses = report.gather(0, True).losses
    assert losses["train/encoder_mi"] == pytest.approx(-0.3)
    assert losses["train/loss"] == pytest.approx(((1 - 0.5) + (3 - 0.1)) / 2)


def test_all_ranks_get_the_summary_of_all_windows(monkeypatch):
    """A rank's mean is in units of all ranks' windows: 2 of finch here, 1 there; no perch there."""
    reports = [StepReport(["finch", "perch", "moth"], CPU) for _ in range(2)]
    means = [{"finch": (4 / 3, 2), "perch": (2.0, 1)}, {"finch": (4 / 3, 1), "perch": (0.0, 0)}]
    for report, of_rank in zip(reports, means, strict=True):
        on_all = {"finch": 3, "perch": 1}
        found = {n: SpeciesLoss(torch.tensor(m), on_all[n], 1.0) for n, (m, _) in of_rank.items()}
        terms = {"encoder_mi": torch.tensor(-0.2)}
        windows = {name: count for name, (_, count) in of_rank.items()}
        total = torch.tensor(sum(windows.values()) - 0.5)
        report.add(Losses(total, terms, found), windows)
    first, second = gather(reports, [0, 0], monkeypatch)
    assert first == second
    assert first.species["finch"].mean == pytest.approx(4 / 3)
    assert first.species["perch"].mean == pytest.approx(1.0)
    assert [s.windows for s in first.species.values()] == [3, 1, 0]
    assert first.losses["train/encoder_mi"] == pytest.approx(-0.2)
    assert first.losses["train/loss"] == pytest.approx((3 + 1) / 2 - 0.5)
    assert (first.windows, first.bad_ranks, first.stop_signal) == (4, [], 0)


def test_windows_count_by_what_was_measured_in_them():
    """A micro-step with half of its targets unmeasured weighs half as much in the mean."""
    report = StepReport(["finch"], CPU)
    for loss, measured in ((1.0, 1.0), (4.0, 0.5)):
        share = torch.tensor(measured, dtype=torch.float64)
        found = {"finch": SpeciesLoss(torch.tensor(loss), 2, share)}
        report.add(Losses(torch.tensor(1.0), {}, found), {"finch": 2})
    of_step = report.gather().species["finch"]
    assert of_step == LossSum(2 * 1.0 + 1 * 4.0, 3.0, 4)
    assert of_step.mean == 2.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_ranks_with_a_loss_that_is_not_finite_are_named(bad, monkeypatch):
    reports = [StepReport(["finch"], CPU) for _ in range(3)]
    for report, loss in zip(reports, (1.0, bad, 1.0), strict=True):
        add(report, {"finch": (1, 1.0)})
        add(report, {"finch": (1, loss)})
    for summary in gather(reports, [0, 0, 0], monkeypatch):
        assert summary.bad_ranks == [1]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_buffers_of_one_rank_that_are_not_finite_are_told_to_all(bad, monkeypatch):
    rows = []
    monkeypatch.setattr(comm, "gather_rows", lambda row: rows.append(row) or torch.stack(rows))
    for largest, expected in ((1.0, False), (bad, True)):
        report = StepReport(["finch"], CPU)
        add(report, {"finch": (3, 1.0)})
        summary = report.gather(15, True, torch.tensor(largest))
        assert (summary.bad_buffers, summary.bad_ranks) == (expected, [])
        assert (summary.windows, summary.stop_signal) == (3 * len(rows), 15)


def test_a_signal_to_one_rank_reaches_all(monkeypatch):
    reports = [StepReport(["finch"], CPU) for _ in range(2)]
    for report in reports:
        add(report, {"finch": (1, 1.0)})
    assert [s.stop_signal for s in gather(reports, [0, 15], monkeypatch)] == [15, 15]


def test_reports_keep_no_graph():
    report = StepReport(["finch"], CPU)
    loss = torch.tensor(1.0, requires_grad=True) * 2
    report.add(Losses(loss, {}, {"finch": SpeciesLoss(loss, 1, 1.0)}), {"finch": 1})
    assert not any(value.requires_grad for value in report.sums.values())


@pytest.mark.parametrize("orders, expected", [((7, 7), True), ((7, 2**24 - 1), False)])
def test_gradients_in_another_order_on_some_rank_are_seen(orders, expected, monkeypatch):
    reports = [StepReport(["finch"], CPU) for _ in orders]
    rows: list[torch.Tensor] = []
    monkeypatch.setattr(comm, "gather_rows", lambda row: rows.append(row) or row[None])
    for report, order in zip(reports, orders, strict=True):
        add(report, {"finch": (2, 1.0)})
        report.gather(0, True, gradient_order=order)
    monkeypatch.setattr(comm, "gather_rows", lambda row: torch.stack(rows))
    assert reports[0].gather(0, True, gradient_order=orders[0]).gradients_in_order is expected


@pytest.mark.parametrize("ready", [[True, True], [True, False], [False, False]])
def test_a_save_is_ready_when_no_rank_is_writing(ready, monkeypatch):
    reports = [StepReport(["finch"], CPU) for _ in ready]
    rows: list[torch.Tensor] = []
    monkeypatch.setattr(comm, "gather_rows", lambda row: rows.append(row) or row[None])
    for report, of_rank in zip(reports, ready, strict=True):
        add(report, {"finch": (1, 1.0)})
        report.gather(save_ready=of_rank)
    monkeypatch.setattr(comm, "gather_rows", lambda row: torch.stack(rows))
    assert reports[0].gather(save_ready=ready[0]).save_ready is all(ready)

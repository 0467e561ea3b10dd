"""The page of several models on the same tasks (benchmarks/downstream.py)."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_tasks import motif_task

from spacescale.genome.dna import decode
from spacescale.tasks.read_task import read_task
from spacescale.tasks.scores import score
from spacescale.tuning.ledger import Ledger
from spacescale.tuning.rows import Rows

REPO = Path(__file__).parents[2]
SIMPLE = {"majority": 0, "CNN": 0.9}


def write_task(folder):
    folder.mkdir()
    for split, found in motif_task(sizes=(40, 8, 120)).splits.items():
        with (folder / f"{split}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["sequence", "label"])
            rows.writerows(zip(map(decode, found.codes), found.targets.tolist(), strict=True))
    return folder


def keep_rows(task, out, right):
    """right: by method the share of test sequences that it knows; the others get 0."""
    ledger, truth = Ledger(task, Rows(out / task.name), "mcc"), task.splits["test"].targets
    for method, share in right.items():
        for seed in range(4):
            knows = np.random.default_rng(seed).random(len(truth)) < share
            found = np.stack([np.ones(len(truth)), 2.0 * (knows * truth)], axis=1)
            ledger.add(method, seed, "key", found, 60.0, {})


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The script, and the results of two models of different shape on one task."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(REPO / "benchmarks"))
        import downstream

    tmp_path = tmp_path_factory.mktemp("page")
    task = read_task(write_task(tmp_path / "motifs"))
    ours = SIMPLE | {"yeast, full": 0.8, "scratch": 0.6}
    keep_rows(task, tmp_path / "a", ours)
    keep_rows(task, tmp_path / "b", SIMPLE | {"fine, full": 1.0, "scratch": 0.75})
    names = task.splits["test"].names
    report = tmp_path / "seen.tsv"
    lines = [f"motifs\ttest\t{n}\t{'same' if i < 30 else 'none'}" for i, n in enumerate(names)]
    report.write_text("\n".join(["task\tsplit\tsequence\tverdict", *lines]) + "\n")
    outs, reports = [tmp_path / "a", tmp_path / "b"], {"yeast": report}
    return downstream, [downstream.results_of(outs, tmp_path / "motifs", reports)]


def test_controls_of_another_shape_are_named_after_their_model(page):
    downstream, results = page
    header, _, line = downstream.scores(results)
    assert header.split(" | ")[2:-1] == [
        *("yeast, full", "fine, full"),
        *("majority", "CNN", "scratch", "scratch as fine"),
    ]
    cells = line.strip("| ").split(" | ")
    assert cells[:2] == ["motifs", "MCC"] and cells[3].startswith("**1.000") and cells[-1] == "–"
    assert float(cells[6][:5]) < float(cells[7][:5])


def test_models_are_compared_with_controls_of_their_shape(page):
    downstream, results = page
    _, _, yeast, fine = downstream.differences(results, ["scratch"])
    assert [line.split(" | ")[0][2:] for line in (yeast, fine)] == ["yeast, full", "fine, full"]
    scratch = [results[0].lines[name].scores for name in ("scratch", "scratch as fine")]
    less = [np.mean(results[0].lines["fine, full"].scores) - np.mean(of) for of in scratch]
    assert f"{less[1]:+.3f} [" in fine and fine.endswith("| better |")


def test_other_methods_are_compared_where_that_is_asked_for(page):
    downstream, results = page
    assert _pairs(downstream.differences(results, ["yeast, full"], also=["CNN"])) == [
        *(("fine, full", "yeast, full"), ("CNN", "yeast, full")),
    ]


def test_no_pair_is_told_from_both_its_sides(page):
    downstream, results = page
    assert _pairs(downstream.differences(results, ["CNN", "yeast, full"], also=["CNN"])) == [
        *(("yeast, full", "CNN"), ("fine, full", "CNN")),
        ("fine, full", "yeast, full"),
    ]


def _pairs(table):
    return [tuple(line.strip("| ").split(" | ")[:2]) for line in table[2:]]


def test_what_was_seen_and_what_it_took(page, tmp_path):
    downstream, results = page
    _, _, yeast, fine, majority, *_ = downstream.details(results)
    assert " | 25.0% | " in yeast and " | – | – | – | – |" in fine
    low, high = majority.split(" | ")[4].strip("[]").split(", ")
    assert majority.startswith("| motifs | majority | 4 |") and float(low) <= float(high)
    one = results[0]
    part = replace(one.seen["yeast, full"], not_searched="human")
    of_part = downstream.details([replace(one, seen=one.seen | {"yeast, full": part})])
    assert " | ≥ 25.0% | " in of_part[2]
    *_, minutes = downstream.sizes(results)[-1].strip("| ").split(" | ")
    assert minutes == "24"  # majority and CNN are in both folders
    downstream.draw(results, tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 10_000


def test_models_are_compared_on_what_neither_has_seen(page):
    downstream, results = page
    ours = results[0]
    all_but_ten = replace(ours.seen["yeast, full"], unseen=np.arange(40, 120))
    both = replace(ours, seen=ours.seen | {"fine, full": all_but_ten})
    (line,) = downstream.differences_not_seen([both], ["yeast, full"])[2:]
    assert line.startswith("| fine, full | yeast, full | motifs | 80 | +0.")
    truth = both.task.splits["test"].targets[40:]
    expected = [
        np.mean([score("classes", truth, one[40:])["mcc"] for one in both.answers[name]])
        for name in ("fine, full", "yeast, full")
    ]
    assert f"| {expected[0] - expected[1]:+.3f} [" in line
    assert len(downstream.differences_not_seen(results, ["yeast, full"])) == 2


def test_all_models_of_a_folder_share_its_controls(page, tmp_path):
    downstream, _ = page
    task = read_task(write_task(tmp_path / "motifs"))
    keep_rows(task, tmp_path / "a", {"yeast, full": 0.8, "scratch": 0.6})
    keep_rows(task, tmp_path / "b", {"fine, full": 1.0, "fine_live, full": 0.9, "scratch": 0.75})
    one = downstream.results_of([tmp_path / "a", tmp_path / "b"], tmp_path / "motifs", {})
    assert one.control("scratch", "fine_live, full") == "scratch as fine"
    assert one.control("scratch", "yeast, full") == "scratch"

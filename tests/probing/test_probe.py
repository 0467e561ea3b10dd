"""A task probed: its table, what holds for a command given again, refusals."""

import argparse
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_models import WINDOW, trained, write_export
from small_tasks import motif_task

from spacescale.cli import build_parser
from spacescale.errors import UserError
from spacescale.genome.dna import encode, reverse_complement
from spacescale.probing import explain as explaining
from spacescale.probing import run as probing
from spacescale.probing.commands import add_options
from spacescale.probing.heads import Recipe
from spacescale.probing.probe import plan_of
from spacescale.probing.run import BESIDE, ON_BASES, ProbePlan, ProbeRun
from spacescale.tuning.cost import tuning_cost
from spacescale.tuning.pretrained import PretrainedSpace
from spacescale.tuning.rows import Rows
from spacescale.tuning.table import table_of, task_lines


@pytest.fixture(scope="module")
def plan():
    pretrained = PretrainedSpace("tiny", trained().model, "digest", "finch", None)
    beside = ("dinucleotides, mlp", "random weights")
    return ProbePlan(
        pretrained,
        ("stem",),
        ("alone", "shuffled"),
        ("ridge", "mlp"),
        (0, 1),
        None,
        WINDOW,
        2,
        beside,
    )


def grouped(task):
    """Elements of test 0 and 1 are in train, too."""
    splits = {}
    for split, found in task.splits.items():
        groups = [
            f"{'train' if split == 'test' and i < 2 else split} {i}" for i in range(len(found))
        ]
        splits[split] = replace(found, groups=tuple(groups))
    return replace(task, splits=splits)


@pytest.fixture(scope="module")
def probed(plan, tmp_path_factory):
    torch.set_num_threads(1)
    task = grouped(motif_task("values", (48, 24, 24)))
    run = ProbeRun(
        task, plan, Rows(tmp_path_factory.mktemp("rows") / "motifs"), torch.device("cpu")
    )
    run.run()
    return run


def test_every_probe_and_control_is_in_the_table(probed):
    names = {f"{of} stem {feed}, {head}" for of in ("tiny", "random weights")
             for feed in ("alone", "shuffled") for head in ("ridge", "mlp")}  # fmt: skip
    assert set(probed.names) == names | {"dinucleotides, mlp"}
    with_one = {row.method for row in probed.rows.rows} - {
        row.method for row in probed.rows.rows if row.seed == 1
    }
    assert with_one == {"tiny stem alone, ridge", "tiny stem shuffled, ridge"}
    first = probed.names[0]
    lines = task_lines(table_of(probed.task, probed.rows, probed.names, (0, 1)))
    assert lines[6].startswith(f"| {first} | ")
    assert any("2 elements of test are in train" in line for line in lines)
    assert any("shuffled: on either side training sequences" in line for line in lines)
    assert "without copies (22)" in lines[4]
    assert not list(probed.rows.folder.glob("features-*"))


def test_the_first_line_is_chosen_on_validation(probed, plan):
    run = ProbeRun(probed.task, plan, Rows(probed.rows.folder), torch.device("cpu"))
    probes = [row for row in run.rows.rows if row.method.startswith("tiny")]
    worst = min(probes, key=lambda row: row.scores["pearson"]).method
    run.rows.rows = [
        replace(row, settings=row.settings | {"valid": float(row.method == worst)})
        for row in run.rows.rows
    ]
    assert run.names[0] == worst and sorted(run.names) == sorted(probed.names)


def test_fresh_weights_differ_between_seeds(probed):
    rows = probed.rows.of("random weights stem alone, ridge", (0, 1))
    assert rows[0].scores != rows[1].scores


def copied(rows: Rows, folder) -> Rows:
    """The same rows in a folder of their own."""
    return Rows(shutil.copytree(rows.folder, folder / "rows"))


def test_networks_on_bases_have_a_row_for_every_seed(probed, plan, tmp_path, monkeypatch):
    for name in ("cnn", "residual_bind"):
        recipe = getattr(probing, name)
        monkeypatch.setattr(probing, name, lambda *a, r=recipe, **k: replace(r(*a, **k), epochs=1))
    rows = copied(probed.rows, tmp_path)
    run = ProbeRun(probed.task, replace(plan, beside=ON_BASES), rows, torch.device("cpu"))
    run.run()
    lines = task_lines(table_of(run.task, run.rows, run.names, plan.seeds))
    for name in ON_BASES:
        assert any(line.startswith(f"| {name} | 2 | ") for line in lines)
        first, second = (rows.answers(row) for row in rows.of(name, (0, 1)))
        assert not np.array_equal(first, second)
    early = "seed 1: its validation loss was lowest after the first of 1 epochs; it has learnt"
    assert any(line.startswith(f"- one-hot, ResidualBind: {early}") for line in lines)


def test_a_network_that_learnt_nothing_is_flagged(probed, plan, tmp_path, monkeypatch):
    build = probing.residual_bind().build
    monkeypatch.setattr(probing, "residual_bind", lambda: Recipe(build, 1e30, 16))
    rows = copied(probed.rows, tmp_path)
    beside = ("one-hot, ResidualBind",)
    run = ProbeRun(probed.task, replace(plan, beside=beside, seeds=(0,)), rows, torch.device("cpu"))
    run.run()
    (row,) = rows.of(*beside, (0,))
    (remark,) = row.remarks
    assert (
        remark == "seed 0: its validation loss was never a number; it has learnt little or nothing"
    )


@pytest.mark.parametrize("feeds, bp", [(("alone",), 64), (("alone", "flanked"), WINDOW)])
def test_what_no_memory_holds_is_refused_with_what_does(plan, tmp_path, monkeypatch, feeds, bp):
    task = motif_task("values", (8, 8, 8))
    run = ProbeRun(task, replace(plan, feeds=feeds), Rows(tmp_path), torch.device("cpu"))
    config = plan.pretrained.space.config
    limit = tuning_cost(config, "head", bp - 16, 1, on_gpu=False).total
    monkeypatch.setattr(probing, "memory_bytes", lambda device: limit)
    longest = rf": {task.splits['train'].names[0]}" if bp < WINDOW else ""
    message = f"^{task.path}{longest}: features of {bp} bp need .* Expected {bp - 16} bp at most"
    with pytest.raises(UserError, match=message):
        run.run()
    assert not run.rows.rows


def test_flanks_that_do_not_fit_are_refused_before_anything_is_fitted(plan, tmp_path):
    task = motif_task("values", (8, 8, 8), WINDOW, WINDOW)
    run = ProbeRun(task, plan, Rows(tmp_path), torch.device("cpu"))
    with pytest.raises(UserError, match="--feed shuffled: sequences of 128 bp do not fit"):
        run.run()
    assert not run.rows.rows


def test_nothing_is_made_again_and_another_setting_is(probed, plan, monkeypatch):
    asked = []
    monkeypatch.setattr(ProbeRun, "_keep", lambda self, method, *_: asked.append(method))
    ProbeRun(probed.task, plan, Rows(probed.rows.folder), torch.device("cpu")).run()
    assert asked == []
    ProbeRun(probed.task, replace(plan, draws=3), probed.rows, torch.device("cpu")).run()
    assert asked and all("shuffled" in method for method in asked)


def test_heads_fit_the_task(plan, tmp_path):
    for kind, of in (("values", "lentimpra"), ("classes", "chip"), ("labels", "chip")):
        task = motif_task(kind, (8, 8, 8))
        assert ProbeRun(task, plan, Rows(tmp_path), torch.device("cpu")).head_of == of
    for assay, metric in (("insertseq", "pearson"), ("splicing", "spearman")):
        task = replace(motif_task("values", (8, 8, 8)), assay=assay)
        run = ProbeRun(task, plan, Rows(tmp_path), torch.device("cpu"))
        assert run.head_of == assay and run.ledger.metric == metric
        asked = ProbeRun(task, replace(plan, head_of="chip"), run.rows, run.device)
        assert asked.head_of == "chip"


REFUSED = [
    ([], "knows finch, perch: say which one the task is of"),
    (["--species", "finch", "--layer", "top"], "--layer top: there are stem,"),
    (["--species", "finch", "--beside", "luck"], f"--beside luck: there are {', '.join(BESIDE)}"),
    (["--species", "finch", "--metric", "f1"], "--metric f1: there are mcc,"),
    (["--species", "finch", "--seeds", "0"], "--seeds 0: at least one"),
    (["--species", "finch", "--draws", "0"], "--draws 0: at least one"),
    (["--species", "finch", "--attribute", "-1"], "--attribute -1: expected 0 or more"),
    (["--species", "finch", "--feed", "genome"], "--feed genome: expected --genome"),
    (
        ["--species", "finch", "--feed", "genome", "--genome", "a=a.fa"],
        "expected --genome, the one",
    ),
    (["--species", "finch", "--window", "50"], "--window 50: expected a multiple of the bins of 8"),
]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_export(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.mark.long
def test_the_command_probes_and_explains(weights, tmp_path, capsys, monkeypatch):
    task = tmp_path / "motifs"
    task.mkdir()
    random = np.random.default_rng(0)
    for split, number in (("train", 40), ("dev", 16), ("test", 16)):
        rows = ["sequence,value"]
        for i in range(number):
            text = "".join(random.choice(list("ACGT"), 30))
            rows.append(f"{text[:10] + 'GATTACA' + text[17:] if i % 2 else text},{i % 2 + i / 100}")
        (task / f"{split}.csv").write_text("\n".join(rows) + "\n")
    rows = [f"motifs\ttest\ttest.csv:{i + 2}\t{'same' if i < 4 else 'none'}" for i in range(16)]
    (tmp_path / "seen.tsv").write_text("\n".join(["task\tsplit\tsequence\tverdict", *rows, ""]))
    words = [
        *("probe", "--weights", str(weights), "--species", "finch", "--task", str(task)),
        *("--out", str(tmp_path / "out"), "--seeds", "1", "--heads", "ridge", "--feed", "alone"),
        *("--beside", "--attribute", "3", "--device", "cpu", "--seen", str(tmp_path / "seen.tsv")),
    ]

    def said(*more):
        args = build_parser().parse_args([*words, *more])
        args.run(args)
        return capsys.readouterr().out

    text, folder = said("--patterns", "GATTACA"), tmp_path / "out" / "motifs"
    assert text == (folder / "tiny.md").read_text()
    assert "not seen (12) |" in text and "has seen 4 of 16 test sequences" in text
    probe = "tiny pointwise alone, ridge"
    assert f"| {probe} | 1 | " in text and "Attributions of 3 test sequences" in text
    assert f"| {probe}, gradient | one-hot, cnn, mutations | " in text
    assert f"| GATTACA | {probe} | " in text and "| GATTACA | one-hot, cnn | " in text
    assert "[tiny-maps.npz](tiny-maps.npz)" in text and "](tiny-maps.png)" in text
    assert (folder / "tiny-maps.png").stat().st_size > 10_000
    with np.load(folder / "tiny-maps.npz") as kept:
        assert kept["values"].shape == (4, 3, 30) and kept["maps"][0] == f"{probe}, gradient"

    def fitted(run):
        raise AssertionError("fitted again")

    monkeypatch.setattr(explaining, "_fitted", fitted)
    again = said()
    assert again.rstrip() == text[: text.index("What a pattern adds")].rstrip()
    with pytest.raises(AssertionError, match="fitted again"):
        said("--attribute", "4")


def test_the_command_feeds_places_of_a_genome(weights, tmp_path, capsys):
    random, task = np.random.default_rng(0), tmp_path / "places"
    contig = "".join(random.choice(list("ACGT"), 3000))
    (tmp_path / "genome.fa").write_text(f">chr1\n{contig}\n")
    task.mkdir()
    for split, first in (("train", 0), ("dev", 1500), ("test", 2200)):
        rows = ["chrom,start,end,strand,sequence,value"]
        for i in range(16):
            start = first + 40 * i
            text, strand = contig[start : start + 30], "+-"[i % 2]
            if strand == "-":
                text = "".join("ACGTN"[c] for c in reverse_complement(encode(text)))
            rows.append(f"1,{start},{start + 30},{strand},{text},{i}")
        (task / f"{split}.csv").write_text("\n".join(rows) + "\n")
    words = ["probe", "--weights", str(weights), "--species", "finch", "--task", str(task)]
    words += ["--seeds", "1", "--heads", "ridge", "--beside", "--device", "cpu", "--attribute", "2"]
    words += ["--feed", "genome", "--genome", str(tmp_path / "genome.fa")]
    args = build_parser().parse_args([*words, "--out", str(tmp_path / "out")])
    args.run(args)
    text = capsys.readouterr().out
    assert "| tiny pointwise genome, ridge | 1 | " in text
    assert "genome: in their places in genome.fa, on their strand, to 128 bp, N beyond" in text
    assert "seen in pretraining: not looked at" in text
    (task / "test.csv").write_text((task / "test.csv").read_text().replace("1,2200,", "1,2201,"))
    args = build_parser().parse_args([*words, "--out", str(tmp_path / "other")])
    with pytest.raises(UserError, match=r"test.csv:2: .*another sequence at chr1:2201-2230 \(\+\)"):
        args.run(args)


@pytest.mark.parametrize("options, message", REFUSED)
def test_options_that_cannot_be_are_refused(options, message, weights):
    parser = argparse.ArgumentParser()
    add_options(parser)
    args = parser.parse_args(["--weights", str(weights), "--task", "anywhere", *options])
    with pytest.raises(UserError, match=re.escape(message)):
        plan_of(args)

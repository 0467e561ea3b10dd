"""`spacescale probe`: its options; PyTorch is loaded when it is run."""

from __future__ import annotations

import argparse

from spacescale.arguments import path_option
from spacescale.tuning.options import add_model_and_task_options


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add it to the `spacescale` command."""
    probe = commands.add_parser(
        "probe", help="what small heads learn from frozen features of a model, beside baselines"
    )
    add_options(probe)
    probe.set_defaults(run=_probe)


def add_options(probe: argparse.ArgumentParser) -> None:
    """The options of `probe`."""
    add_model_and_task_options(probe, "runs/probe")
    probe.add_argument("--seeds", type=int, default=5, help="default: %(default)s")
    probe.add_argument("--task", type=path_option, required=True, help="folder with train, valid "
                       "and test, one table, or an .h5 of Tang and Koo")  # fmt: skip
    probe.add_argument("--layer", nargs="+", default=["pointwise"], help="default: the last; a "
                       "wrong one lists all")  # fmt: skip
    probe.add_argument("--feed", nargs="+", choices=("alone", "flanked", "shuffled", "genome"),
                       default=["alone", "flanked"], help="how sequences are shown: as they are, "
                       "between N, between shuffled sequences of the task, or in their "
                       "places in --genome (default: alone flanked)")  # fmt: skip
    probe.add_argument("--window", type=int, metavar="BP", help="to which flanks fill up "
                       "(default: the window of pretraining)")  # fmt: skip
    probe.add_argument("--draws", type=int, default=3, help="of shuffled flanks, averaged "
                       "(default: %(default)s)")  # fmt: skip
    probe.add_argument("--heads", nargs="+", choices=("ridge", "mlp", "cnn"),
                       default=["ridge", "mlp", "cnn"], help="default: all")  # fmt: skip
    probe.add_argument("--head-of", choices=("lentimpra", "chip", "splicing", "insertseq"),
                       help="whose networks (default: of an .h5 of Tang and Koo its own, else "
                       "lentimpra for values, chip for classes and labels)")  # fmt: skip
    probe.add_argument("--beside", nargs="*", metavar="METHOD", help="what the probes are held "
                       "against (default: all): 'one-hot, cnn', 'one-hot, ResidualBind', "
                       "'dinucleotides, mlp', 'random weights'")  # fmt: skip
    probe.add_argument("--metric", help="of validation and tables (default: MCC, AUROC or "
                       "Pearson, by kind; Spearman for splicing)")  # fmt: skip
    probe.add_argument("--seen", type=path_option, metavar="REPORT", help="table of `spacescale "
                       "contamination` of this task: scores without what was seen")  # fmt: skip
    probe.add_argument("--attribute", type=int, default=0, metavar="N", help="also compare which "
                       "bases the best probe and the one-hot CNN rest N test sequences on, such as "
                       "500; 3 passes a base; keeps the maps and draws some")  # fmt: skip
    probe.add_argument("--patterns", nargs="+", default=[], metavar="BASES", help="also say what "
                       "each adds in the middle of shuffled sequences")  # fmt: skip
    probe.add_argument("--device", help="such as cpu or cuda:1 (default: a GPU if there is one)")


def _probe(args: argparse.Namespace) -> None:
    from spacescale.probing.probe import probe

    print(probe(args))

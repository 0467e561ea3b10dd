"""Fine-tune a pretrained model on a task with a label per sequence: `spacescale finetune`.

In one process as it stands; `deepspeed spacescale/finetune.py …` and torchrun start one per GPU.
"""

from __future__ import annotations

import argparse
import sys

from spacescale import console
from spacescale.arguments import path_option
from spacescale.errors import UserError
from spacescale.tuning.options import add_model_and_task_options


def add_options(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """The options of `finetune`, or, of several tasks, of `suite`."""
    add_model_and_task_options(parser, "runs/finetune", several)
    if several:
        parser.add_argument("suite", type=path_option, help="folder of tasks")
        parser.add_argument("--tasks", nargs="+", help="only those, by name or pattern")
    else:
        parser.add_argument("--task", type=path_option, required=True,
                            help="folder with train, valid and test, or one table")  # fmt: skip
    parser.add_argument("--beside", nargs="*", metavar="METHOD", help="what the model is held "
                        "against (default: all): majority, 'length and GC', k-mers, CNN, scratch, "
                        "'random frozen'")  # fmt: skip
    parser.add_argument("--seeds", type=int, help="default: 5, with --fractions 3")
    parser.add_argument("--fractions", metavar="PERCENT,…", help="train on these shares of the "
                        "training labels, as 1,3,10,30,100, and draw the curve")  # fmt: skip
    parser.add_argument("--seen", type=path_option, metavar="REPORT", help="table of `spacescale "
                        "contamination` of these tasks: scores without what was seen")  # fmt: skip
    learning = parser.add_argument_group("learning")
    learning.add_argument("--mode", choices=("full", "lora", "head"), default="full",
                          help="what is trained: everything, low-rank matrices beside the weights "
                          "of attention and experts, or the last layer alone")  # fmt: skip
    learning.add_argument("--lr", type=float, nargs="+", metavar="RATE",
                          help="of several the one that is best on validation with the first seed, "
                          "for each method by itself (default: 1e-4 3e-4 1e-3 3e-3; of encoders of "
                          "tokens 3e-5 3e-4 1e-3)")  # fmt: skip
    learning.add_argument("--head-lr", type=float, default=1e-3, help="of the last layer, at "
                          "least (default: %(default)s)")  # fmt: skip
    learning.add_argument("--species-lr", type=float, help="of the token and gates of a --species "
                          "that the weights do not know (default: as the last layer)")  # fmt: skip
    learning.add_argument("--epochs", type=int, default=10, help="default: %(default)s")
    learning.add_argument("--patience", type=int, default=0, help="epochs without a better "
                          "validation score that end training (default: never)")  # fmt: skip
    learning.add_argument("--min-steps", type=int, default=300, help="of all epochs together, also "
                          "of the CNN: each is several passes over sequences that are few "
                          "(default: %(default)s)")  # fmt: skip
    learning.add_argument("--metric", help="the score, which chooses rate, strands and epoch "
                          "on validation (default: MCC, AUROC or Pearson, by kind; of tasks that "
                          "are called as those of GUE or Genomic Benchmarks, theirs)")  # fmt: skip
    learning.add_argument("--batch", type=int, default=32, help="sequences a step, of all "
                          "processes (default: %(default)s)")  # fmt: skip
    learning.add_argument("--weight-decay", type=float, default=0.01)
    learning.add_argument("--layer", help="whose features are pooled (default: pointwise)")
    learning.add_argument("--pool", choices=("mean", "sum", "max", "cls"),
                          help="over the bins of a sequence (default: mean); of encoders of tokens "
                          "over its words, or the [CLS] token (default)")  # fmt: skip
    learning.add_argument("--vocabulary", choices=("auto", "bpe", "kmer"), help="of encoders that "
                          "know both, which one sequences are read with (default: auto, the one "
                          "that shares more words with the task)")  # fmt: skip
    learning.add_argument("--shift", type=int, default=0, metavar="BP",
                          help="move training sequences by up to so much")  # fmt: skip
    learning.add_argument("--strands", choices=("auto", "one", "both"), default="auto",
                          help="train on sequences as they are, or on either strand and answer "
                          "from both; auto (default): what is best on validation with the first "
                          "seed, for each method by itself")  # fmt: skip
    learning.add_argument("--class-weights", action="store_true",
                          help="let rare classes count as much as frequent ones")  # fmt: skip
    learning.add_argument("--live-batchnorm", action="store_true",
                          help="take BatchNorm's statistics from the task (full only)")  # fmt: skip
    learning.add_argument("--lora-rank", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--deepspeed", type=path_option, help="DeepSpeed's JSON, ZeRO stage 1 or 2")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # added by deepspeed


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add them to the `spacescale` command."""
    finetune = commands.add_parser("finetune", help="fine-tune a model on a task, beside baselines")
    add_options(finetune)
    finetune.set_defaults(run=run)
    suite = commands.add_parser("suite", help="fine-tune on all tasks of a folder, and go on")
    add_options(suite, several=True)
    suite.set_defaults(run=run)
    answer = commands.add_parser("answer", help="what a fine-tuned model says of sequences")
    answer.add_argument("--weights", type=path_option, required=True,
                        help="of `finetune`: OUT/TASK/weights/NAME_MODE-SEED")  # fmt: skip
    answer.add_argument("--sequences", type=path_option, required=True,
                        help="FASTA, 2bit, or a table with a column `sequence`")  # fmt: skip
    answer.add_argument("--out", type=path_option, required=True, help="table to write, .tsv")
    answer.set_defaults(run=_answer)


def _answer(args: argparse.Namespace) -> None:
    from spacescale.predict.sequence_embeddings import read_sequences
    from spacescale.tuning.tuned_model import load_tuned, write_answers

    sequences = read_sequences(args.sequences)
    write_answers(load_tuned(args.weights), sequences, args.out)
    print(f"{args.out}: answers to {len(sequences):,} sequences")


def add_plan_options(plan: argparse.ArgumentParser) -> None:
    """The options of `spacescale plan` that are of a fine-tuning."""
    tuned = plan.add_argument_group("of a fine-tuning")
    tuned.add_argument("--finetune", choices=("full", "lora", "head"), help="plan that instead")
    tuned.add_argument("--length", type=int, default=500, help="of a sequence (default: 500 bp)")
    tuned.add_argument("--batch", type=int, default=32, help="sequences a step (default: 32)")
    tuned.add_argument("--lora-rank", type=int, default=8, help="default: %(default)s")
    tuned.add_argument("--sequences", type=int, help="of an epoch, to time it")


def main(arguments: list[str] | None = None) -> int:
    """Fine-tune on one task; returns the exit status."""
    parser = argparse.ArgumentParser(prog="finetune.py", description=__doc__)
    add_options(parser)
    return run(parser.parse_args(arguments))


def run(args: argparse.Namespace) -> int:
    """Run `finetune` or `suite` as parsed, in this process of the run."""
    from spacescale.parallel import comm
    from spacescale.parallel.engine import init_distributed, leave
    from spacescale.tuning.suite import tune

    console.prepare(goes_on=True)
    try:
        device = init_distributed()
        tuned = tune(args, device)
        if comm.is_main() and tuned.text:
            print(tuned.text, flush=True)
        tuned.require_no_failures()
    except UserError as error:
        if comm.is_main() or isinstance(error, comm.NotMet):
            print(f"error: {error}", file=sys.stderr, flush=True)
        leave()
        return 2
    leave()
    return 0


if __name__ == "__main__":
    sys.exit(main())

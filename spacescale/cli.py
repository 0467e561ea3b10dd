"""The `spacescale` command: from checking a machine to exporting a trained model."""

from __future__ import annotations

import argparse
import logging
import re
import sys
from pathlib import Path

from spacescale import __version__, console, finetune
from spacescale.ablation import command as ablation
from spacescale.arguments import given_path, path_option
from spacescale.contamination import commands as contamination_commands
from spacescale.errors import UserError
from spacescale.hub import convert_command
from spacescale.predict import commands as predict_commands
from spacescale.pretrain import begin
from spacescale.probing import commands as probing_commands
from spacescale.selfcheck import add_options as add_selfcheck_options
from spacescale.selfcheck import run as run_selfcheck
from spacescale.tuning import vocabulary_command

OVERRIDE = re.compile(r"[a-z]+\.\w+=")
TAKE_OVERRIDES = (["ablate"], ["plan"], ["selfcheck"])


def build_parser() -> argparse.ArgumentParser:
    """The command line of `spacescale`."""
    parser = argparse.ArgumentParser(prog="spacescale", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True)

    evaluate = commands.add_parser("evaluate", help="score a model on held-out windows")
    evaluate.add_argument("path", type=path_option, help="run folder, checkpoint or export")
    evaluate.add_argument(
        "--data", type=path_option, nargs="+", default=[], help="default: the run's"
    )
    evaluate.add_argument("--split", default="test", help="default %(default)s")
    evaluate.add_argument(
        "--out", type=path_option, help="default: evaluation/SPLIT in the run folder or export"
    )
    evaluate.add_argument(
        "--both-strands",
        action="store_true",
        help="average predictions for both strands, those of baselines too",
    )
    evaluate.add_argument(
        "--other-split",
        action="store_true",
        help="score data that are split in another way than those the model was trained on",
    )
    evaluate.add_argument(
        "--batch",
        type=int,
        default=4,
        help="windows at a time on each device (default: %(default)s)",
    )
    evaluate.add_argument(
        "--region",
        metavar="CONTIG:START-END",
        help="what the figure of tracks shows, 0-based half-open, within windows of the split "
        "(default: a stretch with signal)",
    )
    evaluate.add_argument(
        "--baseline",
        choices=("cnn",),
        help="beside mean profile, GC and k-mer ridge, also a plain CNN, trained for "
        "--baseline-minutes of each species",
    )
    evaluate.add_argument("--baseline-minutes", type=float, default=4, help="default: %(default)s")
    evaluate.add_argument(
        "--baseline-seed", type=int, default=0, help="of the CNN; default: %(default)s"
    )
    evaluate.add_argument(
        "--train-too", action="store_true", help="score as many training windows, to compare"
    )
    evaluate.add_argument(
        "--genes",
        nargs="+",
        default=[],
        metavar="SPECIES=GTF",
        help="score genes, too: their levels over the exons, and the shape within",
    )
    evaluate.set_defaults(run=_evaluate)

    others = (predict_commands, contamination_commands, probing_commands, finetune)
    for of_a_room in (*others, vocabulary_command):
        of_a_room.add_to(commands)

    ablate = commands.add_parser("ablate", help="train arms side by side and compare them")
    ablation.add_options(ablate)
    ablate.set_defaults(run=_ablate)

    convert_command.add_to(commands)

    importer = commands.add_parser("import", help="make an export of weights of another layout")
    importer.add_argument("source", type=path_option, help="folder: config.json and weights")
    importer.add_argument("--out", type=path_option, required=True, help="folder to make")
    importer.add_argument(
        "--from",
        dest="layout",
        choices=("released", "enformer"),
        default="released",
        help="released SPACE, or enformer-pytorch (default: %(default)s)",
    )
    importer.add_argument(
        "--upcycle",
        nargs="+",
        default=[],
        metavar=("PRESET", "model.field=value"),
        help="Enformer's weights into a model with experts, which at first predicts the same",
    )
    importer.add_argument(
        "--targets",
        nargs="+",
        default=[],
        metavar="SPECIES=TABLE",
        help="targets tables of the tracks (default: numbered tracks)",
    )
    importer.set_defaults(run=_import)

    export = commands.add_parser("export", help="write an export in the released SPACE's layout")
    export.add_argument("source", type=path_option, help="folder made by convert or import")
    export.add_argument("--out", type=path_option, required=True, help="folder to make")
    export.set_defaults(run=_export)

    info = commands.add_parser("info", help="say what a run, checkpoint, export or data set holds")
    info.add_argument(
        "path",
        type=path_option,
        help="run folder, checkpoint, export, dataset, or folder of datasets",
    )
    info.add_argument(
        "--figure",
        type=path_option,
        metavar="PNG",
        help="also draw coverage per track and split of data",
    )
    info.add_argument(
        "--verify", action="store_true", help="read all of a checkpoint and say if it is sound"
    )
    info.set_defaults(run=_info)

    checkpoints = commands.add_parser(
        "checkpoints", help="list, verify or prune a run's checkpoints, or go back to one"
    )
    checkpoints.add_argument("run_folder", type=path_option, metavar="RUN", help="run folder")
    checkpoints.add_argument(
        "action",
        nargs="?",
        choices=("list", "verify", "prune", "back"),
        default="list",
        help="verify reads all of them; prune removes what the run's settings do not keep; back "
        "makes the run go on from an earlier one, the later ones being set aside (default: "
        "%(default)s)",
    )
    checkpoints.add_argument("step", nargs="?", metavar="STEP", help="to go back to: step or name")
    checkpoints.add_argument(
        "--keep-last", type=int, metavar="K", help="prune: in place of the run's run.keep_last"
    )
    checkpoints.add_argument(
        "--set-aside", action="store_true", help="prune: remove also those that were set aside"
    )
    checkpoints.set_defaults(run=_checkpoints)

    status = commands.add_parser("status", help="say how a run stands, and what to do next")
    status.add_argument("path", type=path_option, help="run folder")
    status.add_argument(
        "--watch",
        type=float,
        nargs="?",
        const=10.0,
        metavar="SECONDS",
        help="say it again and again until the run ends (default: every %(const)s s)",
    )
    status.add_argument("--json", action="store_true", help="for programs; a line each time")
    status.set_defaults(run=_status)

    plan = commands.add_parser("plan", help="say what a run would cost, before it is run")
    plan.add_argument("overrides", nargs="*", metavar="section.field=value", help="as in training")
    plan.add_argument("--preset", default="space_large", help="default: %(default)s")
    plan.add_argument(
        "--data",
        type=path_option,
        nargs="+",
        default=[],
        help="default: the published human and mouse",
    )
    plan.add_argument("--gpus", type=int, default=8, help="default: %(default)s")
    plan.add_argument("--zero", type=int, help="ZeRO stage (default: 2)")
    plan.add_argument(
        "--ep", type=int, help="processes that share one set of experts (default: the preset's)"
    )
    plan.add_argument("--micro-batch", type=int, help="windows per GPU (default: the preset's)")
    plan.add_argument("--accumulation", type=int, help="micro-steps per step (default: 1)")
    plan.add_argument(
        "--precision",
        choices=("bf16", "fp32"),
        default="bf16",
        help="of activations; weights are fp32 with both (default: %(default)s)",
    )
    plan.add_argument(
        "--machine",
        default="a40",
        help="rates of a40, h100 or h200; the next options replace them (default: %(default)s)",
    )
    plan.add_argument("--tflops", type=float, help="10^12 operations a GPU achieves per second")
    plan.add_argument(
        "--link-gbytes-per-s",
        type=float,
        nargs=2,
        metavar=("WITHIN", "BETWEEN"),
        help="10^9 bytes a GPU sends per second within its node, and its share of the network",
    )
    plan.add_argument("--gpus-per-node", type=int, help="GPUs that the first link joins")
    plan.add_argument(
        "--latency-us", type=float, help="of a collective, per doubling of the GPUs in it"
    )
    plan.add_argument(
        "--measure",
        action="store_true",
        help="also run one micro-step here (in fp32 without a GPU) and set it beside the plan",
    )
    plan.add_argument("--json", action="store_true", help="bytes and FLOPs for programs")
    finetune.add_plan_options(plan)
    plan.set_defaults(run=_plan)

    recommend = commands.add_parser(
        "recommend", help="say how to train on given data sets here, why, and by which command"
    )
    recommend.add_argument(
        "data", type=path_option, nargs="*", metavar="DATA", help="default: the embedded data"
    )
    recommend.add_argument(
        "--minutes", type=float, help="of training (default: 20 on CPUs, 240 on GPUs)"
    )
    recommend.add_argument("--json", action="store_true", help="for programs")
    recommend.set_defaults(run=_recommend)

    selfcheck = commands.add_parser(
        "selfcheck",
        help="check training on this machine; several processes: deepspeed spacescale/selfcheck.py",
    )
    selfcheck.add_argument(
        "overrides", nargs="*", metavar="section.field=value", help="as in training"
    )
    add_selfcheck_options(selfcheck)
    selfcheck.set_defaults(run=_selfcheck)
    return parser


def _evaluate(args: argparse.Namespace) -> None:
    from spacescale.evals.evaluation import Options, evaluate
    from spacescale.predict.trained_encoder import holds_tokens

    if args.batch < 1:
        raise UserError(f"--batch {args.batch}: must be 1 or more")
    if holds_tokens(args.path):
        _evaluate_tokens(args)
        return
    if not args.baseline_minutes > 0:
        raise UserError(f"--baseline-minutes {args.baseline_minutes}: must be above 0")
    options = Options(
        split=args.split,
        both_strands=args.both_strands,
        other_split=args.other_split,
        batch_size=args.batch,
        cnn_minutes=args.baseline_minutes if args.baseline == "cnn" else None,
        cnn_seed=args.baseline_seed,
        train_too=args.train_too,
        genes=_paths_by_species("--genes", args.genes),
        region=args.region,
    )
    print(evaluate(args.path, args.data, args.out, options))


def _evaluate_tokens(args: argparse.Namespace) -> None:
    from spacescale.evals.token_evaluation import evaluate_tokens

    for name in ("both_strands", "region", "baseline", "train_too", "genes"):
        if getattr(args, name):
            option = f"--{name.replace('_', '-')}"
            raise UserError(f"{option}: is about tracks, which {args.path} does not predict")
    where = (args.path, args.data, args.out)
    print(evaluate_tokens(*where, args.split, args.batch, args.other_split))


def _ablate(args: argparse.Namespace) -> int:
    from spacescale.presets import DEFAULT_PRESET, EMBEDDED_PRESET
    from spacescale.testing.embedded_data import embedded_data

    args.preset = args.preset or (DEFAULT_PRESET if args.data else EMBEDDED_PRESET)
    args.data = args.data or [embedded_data()]
    return ablation.run(args)


def _paths_by_species(option: str, texts: list[str]) -> dict[str, Path]:
    named = [text.partition("=") for text in texts]
    for species, _, path in named:
        if not path:
            raise UserError(f"{option} {species}: expected SPECIES=FILE")
    return {species: given_path(path) for species, _, path in named}


def _import(args: argparse.Namespace) -> None:
    from spacescale.checkpoint.enformer import import_enformer
    from spacescale.checkpoint.released import import_released
    from spacescale.genome.tracks import read_targets
    from spacescale.overrides import build_config

    tables = _paths_by_species("--targets", args.targets)
    targets = {species: read_targets(table) for species, table in tables.items()}
    if args.layout == "enformer":
        upcycled = build_config(args.upcycle[0], args.upcycle[1:]).space if args.upcycle else None
        count = import_enformer(args.source, args.out, targets, upcycled)
    elif args.upcycle:
        raise UserError(f"--upcycle {args.upcycle[0]}: needs --from enformer")
    else:
        count = import_released(args.source, args.out, targets)
    print(f"{args.out}: imported {count} tensors")


def _export(args: argparse.Namespace) -> None:
    from spacescale.checkpoint.released import export_released

    count = export_released(args.source, args.out)
    print(f"{args.out}: exported {count} tensors in the released layout")


def _info(args: argparse.Namespace) -> None:
    from spacescale.dataset.loader import open_datasets
    from spacescale.evals.data_info import draw_coverage
    from spacescale.evals.info import describe

    print(describe(args.path, args.verify))
    if args.figure:
        print(draw_coverage(args.figure, list(open_datasets([args.path]).values())))


def _checkpoints(args: argparse.Namespace) -> None:
    from spacescale.checkpoint import overview

    run = args.run_folder
    if (args.step is not None) != (args.action == "back"):
        raise UserError("STEP is given with back, and only there: checkpoints RUN back 500")
    if args.action != "prune" and (args.set_aside or args.keep_last is not None):
        raise UserError("--keep-last and --set-aside are options of prune")
    if args.keep_last is not None and args.keep_last < 1:
        raise UserError(f"--keep-last {args.keep_last}: must be 1 or more")
    if args.action == "prune":
        for removed in overview.prune(run, args.keep_last, args.set_aside):
            print(f"removed {removed}")
    elif args.action == "back":
        checkpoint = overview.go_back(run, args.step)
        print(f"{run} goes on from {checkpoint.name} with --resume auto")
    verify = args.action == "verify"
    rows = overview.look(run, verify)
    print(overview.table(rows, verify))
    damaged = [row.path.name for row in rows if row.problem and "set aside" not in row.marks]
    if verify and damaged:
        raise UserError(f"{run}: damaged: {', '.join(damaged)}")


def _status(args: argparse.Namespace) -> None:
    from spacescale.evals.status import as_json, as_text, follow, read_status

    if args.watch is not None and not args.watch >= 1:
        raise UserError(f"--watch {args.watch}: expected 1 second or more")
    found = [read_status(args.path)] if args.watch is None else follow(args.path, args.watch)
    for status in found:
        if args.json:
            print(as_json(status), flush=True)
            continue
        if args.watch is not None and sys.stdout.isatty():
            print("\x1b[2J\x1b[H", end="")  # a clear screen, from its top
        print(as_text(status), flush=True)


def _plan(args: argparse.Namespace) -> None:
    from spacescale.planning.machine import named_machine
    from spacescale.planning.measure import measure_plan
    from spacescale.planning.plan import plan_preset
    from spacescale.planning.report import as_json, as_text
    from spacescale.tuning.cost import plan_tuning

    within, between = args.link_gbytes_per_s or (None, None)
    machine = named_machine(
        args.machine,
        tflops=args.tflops,
        within_gbytes=within,
        between_gbytes=between,
        gpus_per_node=args.gpus_per_node,
        latency_us=args.latency_us,
    )
    if args.finetune:
        print(plan_tuning(args, machine))
        return
    plan = plan_preset(
        args.preset,
        args.overrides,
        args.data,
        gpus=args.gpus,
        zero_stage=2 if args.zero is None else args.zero,
        ep_size=args.ep,
        micro_batch=args.micro_batch,
        precision=args.precision,
        accumulation=1 if args.accumulation is None else args.accumulation,
        machine=machine,
    )
    measured = measure_plan(plan) if args.measure else None
    print((as_json if args.json else as_text)(plan, measured))


def _recommend(args: argparse.Namespace) -> None:
    from spacescale.planning.recommend import recommend
    from spacescale.planning.recommend_report import as_json, as_text
    from spacescale.testing.embedded_data import embedded_data

    if args.minutes is not None and not args.minutes > 0:
        raise UserError(f"--minutes {args.minutes}: must be above 0")
    given = [str(path) for path in args.data]
    found = recommend(args.data or [embedded_data()], args.minutes, given)
    print((as_json if args.json else as_text)(found))


def _selfcheck(args: argparse.Namespace) -> int:
    return run_selfcheck(args, begin())


def parse_arguments(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line; overrides may stand anywhere among their command's options."""
    words = sys.argv[1:]
    apart = [w for w in words if OVERRIDE.match(w)] if words[:1] in TAKE_OVERRIDES else []
    args, rest = parser.parse_known_args([word for word in words if word not in apart])
    if rest and ("overrides" not in args or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if found := [*rest, *apart]:
        args.overrides += found
    return args


def main() -> int:
    """Entry point; returns the exit status: 2 for bad input, whose message goes to stderr."""
    only_tells = sys.argv[1:2] in (["info"], ["plan"], ["recommend"], ["status"])
    return console.run(_run, goes_on=not only_tells)


def _run() -> int:
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    args = parse_arguments(build_parser())
    try:
        return args.run(args) or 0
    except OSError as error:
        raise UserError(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())

"""The commands that use a trained model: their options; PyTorch is loaded when one is run."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from spacescale.arguments import path_option
from spacescale.errors import UserError

if TYPE_CHECKING:
    from spacescale.predict.predictor import Predictor


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add them to the `spacescale` command."""
    predict = commands.add_parser(
        "predict", help="tracks of any region of a genome, as BigWigs a browser opens"
    )
    _add_weights(predict)
    predict.add_argument(
        "--fasta", type=path_option, required=True, help="the genome: FASTA (.gz) or 2bit"
    )
    predict.add_argument(
        "--regions",
        nargs="+",
        required=True,
        metavar="CONTIG[:START-END]|BED",
        help="0-based half-open",
    )
    predict.add_argument(
        "--tracks",
        nargs="+",
        default=[],
        metavar="TRACK",
        help="identifiers, assays, indices, or patterns with * of identifiers and descriptions",
    )
    predict.add_argument(
        "--unit",
        choices=("means", "stored", "coverage"),
        default="means",
        help="multiples of each track's training mean (default); targets as stored; or values of "
        "the tracks' own files, scale and soft clip undone",
    )
    predict.add_argument(
        "--both-strands", action="store_true", help="average predictions for both strands"
    )
    predict.add_argument(
        "--shifts",
        nargs="+",
        type=int,
        default=[0],
        metavar="BP",
        help="average over windows moved by these (default: 0)",
    )
    predict.add_argument("--format", choices=("bigwig", "bedgraph"), default="bigwig")
    predict.add_argument("--out", type=path_option, required=True, help="folder to make")
    predict.set_defaults(run=_predict)


def _add_weights(parser: argparse.ArgumentParser) -> None:
    """Options of every command that uses a trained model."""
    parser.add_argument(
        "--weights", type=path_option, required=True, help="export, checkpoint or run folder"
    )
    parser.add_argument("--species", help="needed where the model knows several")
    parser.add_argument("--device", help="such as cpu or cuda:1 (default: a GPU if there is one)")
    parser.add_argument(
        "--precision", choices=("float32", "bfloat16", "float16"), default="float32"
    )
    parser.add_argument("--batch", type=int, default=4, help="windows at a time (default: 4)")


def _predictor(args: argparse.Namespace) -> Predictor:
    import torch

    from spacescale.predict.predictor import Predictor

    if args.batch < 1:
        raise UserError(f"--batch {args.batch}: must be 1 or more")
    try:
        device = torch.device(args.device) if args.device else None
    except RuntimeError:
        raise UserError(f"--device {args.device}: expected such as cpu, cuda or cuda:1") from None
    return Predictor.load(args.weights, args.species, device, args.precision, args.batch)


def _predict(args: argparse.Namespace) -> None:
    from spacescale.predict.region_tracks import Request, predict

    request = Request(
        args.fasta,
        args.regions,
        args.tracks,
        args.unit,
        args.both_strands,
        tuple(args.shifts),
        args.format,
    )
    files = predict(_predictor(args), request, args.out)
    print(f"{args.out}: {len(files)} tracks in {args.unit}; igv_session.xml opens all of them")

"""The commands that use a trained model: their options; PyTorch is loaded when one is run."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

from spacescale.arguments import path_option
from spacescale.errors import UserError
from spacescale.predict.effect_scores import DISTANCES, LIKELIHOODS, TRACK_SCORES

if TYPE_CHECKING:
    import torch

    from spacescale.predict.predictor import Predictor
    from spacescale.predict.variant_effects import Scoring


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add them to the `spacescale` command."""
    predict = commands.add_parser(
        "predict", help="tracks of any region of a genome, as BigWigs a browser opens"
    )
    _add_weights(predict)
    _add_genome(predict)
    _add_regions(predict)
    _add_tracks(predict, "a file each")
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
    predict.add_argument(
        "--format",
        choices=("bigwig", "bedgraph", "parquet"),
        default="bigwig",
        help="a file for each track (default: bigwig), or one table with a column each",
    )
    predict.add_argument(
        "--figure",
        action=argparse.BooleanOptionalAction,
        help="draw each region (default: up to 10 regions of up to 500 kb)",
    )
    _add_jobs(predict)
    predict.add_argument("--out", type=path_option, required=True, help="folder to make")
    predict.set_defaults(run=_predict)

    effects = commands.add_parser(
        "score-variants", help="what the variants of a VCF file do to predicted tracks"
    )
    effects.add_argument("vcf", type=path_option, help="VCF, plain or gzipped, or BCF")
    _add_weights(effects)
    _add_genome(effects)
    _add_tracks(effects, "a row each")
    _add_scoring(effects)
    _add_jobs(effects)
    effects.add_argument(
        "--out", type=path_option, required=True, help="table to make: .parquet or .tsv"
    )
    effects.set_defaults(run=_score_variants)

    mpra = commands.add_parser(
        "score-mpra", help="hold predicted effects against saturation mutagenesis by MPRA"
    )
    mpra.add_argument(
        "table",
        type=path_option,
        help="elements.tsv[.gz] of Kircher et al. 2019: Chrom Pos Ref Alt Barcodes Coefficient "
        "pValue Element Release",
    )
    _add_weights(mpra)
    mpra.add_argument(
        "--fasta",
        type=path_option,
        help="see the elements where they lie in this genome (default: alone, N around them)",
    )
    _add_any_genome(mpra)
    mpra.add_argument("--release", default="GRCh38", help="rows to take (default: %(default)s)")
    mpra.add_argument(
        "--elements", nargs="+", default=[], metavar="NAME", help="or patterns (default: all)"
    )
    mpra.add_argument(
        "--min-barcodes", type=int, default=10, help="of a variant (default: %(default)s)"
    )
    _add_tracks(mpra, "their mean is correlated")
    _add_scoring(mpra)
    _add_jobs(mpra)
    mpra.add_argument(
        "--out", type=path_option, required=True, help="table to make: .parquet or .tsv"
    )
    mpra.set_defaults(run=_score_mpra)

    attribute = commands.add_parser(
        "attribute", help="which bases of a region its predicted tracks rest on"
    )
    _add_weights(attribute)
    _add_genome(attribute)
    _add_regions(attribute)
    _add_tracks(attribute, "explained together, their mean")
    attribute.add_argument(
        "--method",
        choices=("ism", "gradient", "integrated"),
        default="ism",
        help="in silico mutagenesis (default); corrected gradients; integrated gradients",
    )
    attribute.add_argument(
        "--steps", type=int, default=64, help="of integrated gradients (default: 64)"
    )
    attribute.add_argument("--no-figures", action="store_true", help="draw no logos")
    attribute.add_argument("--out", type=path_option, required=True, help="folder to make")
    attribute.set_defaults(run=_attribute)

    embed = commands.add_parser("embed", help="features of sequences of any length")
    _add_weights(embed)
    embed.add_argument(
        "--sequences",
        type=path_option,
        help="a sequence for each record of a FASTA file, or row of a .csv or .tsv file with a "
        "column `sequence`",
    )
    embed.add_argument(
        "--task",
        type=path_option,
        help="with --format bend: BEND's .bed, or any folder or file of a task",
    )
    embed.add_argument(
        "--fasta", type=path_option, help="a genome, with --regions or the places of a --task"
    )
    embed.add_argument("--regions", nargs="+", default=[], metavar="CONTIG[:START-END]|BED")
    _add_any_genome(embed)
    embed.add_argument(
        "--layer", default="pointwise", help="default: the last; a wrong one lists all"
    )
    embed.add_argument(
        "--pool",
        choices=("mean", "max", "sum", "none"),
        default="mean",
        help="over positions (default: mean)",
    )
    embed.add_argument("--both-strands", action="store_true", help="average over both strands")
    embed.add_argument(
        "--format",
        choices=("npz", "bend"),
        default="npz",
        help="one file (default), or tar files of features at every base with labels, for BEND",
    )
    embed.add_argument(
        "--out", type=path_option, required=True, help=".npz to make, or folder for BEND"
    )
    embed.set_defaults(run=_embed)


def _add_weights(parser: argparse.ArgumentParser) -> None:
    """Options of every command that uses a trained model."""
    parser.add_argument(
        "--weights",
        type=path_option,
        required=True,
        help="export, checkpoint or run folder, or ORG/NAME of the Hub",
    )
    parser.add_argument("--revision", help="branch, tag or commit of the Hub (default: main)")
    parser.add_argument("--species", help="needed where the model knows several")
    parser.add_argument("--device", help="such as cpu or cuda:1 (default: a GPU if there is one)")
    parser.add_argument(
        "--precision", choices=("float32", "bfloat16", "float16"), default="float32"
    )
    parser.add_argument("--batch", type=int, default=4, help="windows at a time (default: 4)")


def _add_genome(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--fasta", type=path_option, required=True, help="the genome: FASTA (.gz) or 2bit"
    )

    _add_any_genome(parser)


def _add_any_genome(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--any-genome",
        action="store_true",
        help="take a FASTA whose contigs have other lengths than in training, such as one of "
        "another species",
    )


def _add_jobs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="processes that predict, on all GPUs in turn or sharing the CPUs (default: one for "
        "each GPU, one on CPUs)",
    )


def _add_regions(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--regions",
        nargs="+",
        required=True,
        metavar="CONTIG[:START-END]|BED",
        help="0-based half-open",
    )


def _add_scoring(parser: argparse.ArgumentParser) -> None:
    """Options of what the effect of a variant is."""
    parser.add_argument(
        "--scores",
        nargs="+",
        default=["log2_ratio"],
        choices=(*TRACK_SCORES, *DISTANCES, *LIKELIHOODS),
        help="default: log2((sum of ALT + c) / (sum of REF + c)) over the mask; "
        f"{', '.join(DISTANCES)} compare features of --layer instead of tracks, "
        f"{' and '.join(LIKELIHOODS)} how likely the bases of an SNV are, hidden or not, for "
        "weights that predict hidden bases",
    )
    parser.add_argument("--layer", default="pointwise", help="default: the last before the heads")
    parser.add_argument("--unit", choices=("means", "stored", "coverage"), default="stored")
    parser.add_argument(
        "--pseudocount", type=float, default=1.0, help="c, in the unit (default: 1)"
    )
    parser.add_argument(
        "--mask-bp",
        type=int,
        help="bases around the variant that count (default: 2001 for histone marks, else 501)",
    )
    parser.add_argument(
        "--shifts",
        nargs="+",
        type=int,
        default=[-1, 0, 1],
        metavar="BP",
        help="average over windows moved by these, on both strands (default: -1 0 1)",
    )


def _add_tracks(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "--tracks",
        nargs="+",
        default=[],
        metavar="TRACK",
        help=f"{what}: identifiers, assays, indices, or patterns with * of identifiers and "
        "descriptions (default: all)",
    )


def _devices(args: argparse.Namespace) -> list[str]:
    """The device of each process that is to predict."""
    import torch

    if args.jobs is not None and args.jobs < 1:
        raise UserError(f"--jobs {args.jobs}: must be 1 or more")
    if args.device:
        _device(args)
        return [args.device] * (args.jobs or 1)
    gpus = [f"cuda:{gpu}" for gpu in range(torch.cuda.device_count())] or ["cpu"]
    return [gpus[job % len(gpus)] for job in range(args.jobs or len(gpus))]


def _predictor_of_jobs(args: argparse.Namespace) -> tuple[Predictor, tuple[str, ...]]:
    """The predictor, and the devices of its copies: none where it predicts itself."""
    devices = _devices(args)
    if len(devices) == 1:
        return _predictor(args), ()
    given = args.device
    args.device = "cpu"  # copies do the work
    predictor = _predictor(args)
    args.device = given
    return predictor, tuple(devices)


def _predictor(args: argparse.Namespace) -> Predictor:
    from spacescale.predict.predictor import Predictor

    if args.batch < 1:
        raise UserError(f"--batch {args.batch}: must be 1 or more")
    device = _device(args)
    return Predictor.load(
        args.weights, args.species, device, args.precision, args.batch, args.revision
    )


def _device(args: argparse.Namespace) -> torch.device | None:
    """The device of --device; None without it."""
    import torch

    try:
        return torch.device(args.device) if args.device else None
    except RuntimeError:
        raise UserError(f"--device {args.device}: expected such as cpu, cuda or cuda:1") from None


def _predict(args: argparse.Namespace) -> None:
    from spacescale.predict.region_tracks import Request, predict

    predictor, devices = _predictor_of_jobs(args)
    request = Request(
        args.fasta,
        args.regions,
        args.tracks,
        args.unit,
        args.both_strands,
        tuple(args.shifts),
        args.format,
        args.figure,
        args.any_genome,
        devices,
    )
    files = predict(predictor, request, args.out)
    count = len(predictor.choose_tracks(args.tracks))
    session = "igv_session.xml opens all of them"
    where = f"in {files[0].name}" if args.format == "parquet" else session
    print(f"{args.out}: {count} tracks in {args.unit}; {where}")


def _scoring(args: argparse.Namespace) -> Scoring:
    from spacescale.predict.variant_effects import Scoring

    if not 0 < args.pseudocount < math.inf:
        raise UserError(f"--pseudocount {args.pseudocount:g}: must be above 0, and a number")
    if args.mask_bp is not None and args.mask_bp < 1:
        raise UserError(f"--mask-bp {args.mask_bp}: must be 1 or more")
    return Scoring(
        tuple(dict.fromkeys(args.scores)), args.unit, args.pseudocount, args.mask_bp,
        tuple(args.shifts), args.layer,
    )  # fmt: skip


def _score_variants(args: argparse.Namespace) -> None:
    from spacescale.predict.effect_tables import score_variants

    scoring = _scoring(args)
    predictor, devices = _predictor_of_jobs(args)
    found = score_variants(
        predictor, args.vcf, args.fasta, args.out, scoring, args.tracks, args.any_genome, devices
    )
    skipped = "".join(f"; {count:,} skipped: {why}" for why, count in found.skipped.items())
    unlikely = f"; {found.unlikely:,} without likelihood: no SNVs" if found.unlikely else ""
    print(f"{args.out}: {found.scored:,} variants scored{unlikely}{skipped}")


def _score_mpra(args: argparse.Namespace) -> None:
    from spacescale.predict.mpra_scores import Request, score_mpra

    scoring = _scoring(args)
    predictor, devices = _predictor_of_jobs(args)
    request = Request(
        args.table, args.release, args.elements, args.min_barcodes, args.fasta, args.any_genome,
        args.tracks, devices,
    )  # fmt: skip
    print(score_mpra(predictor, request, scoring, args.out))


def _attribute(args: argparse.Namespace) -> None:
    from spacescale.predict.region_attributions import Request, attribute

    if args.steps < 1:
        raise UserError(f"--steps {args.steps}: must be 1 or more")
    request = Request(
        args.fasta, args.regions, args.tracks, args.method, args.steps, not args.no_figures,
        args.any_genome,
    )  # fmt: skip
    print(f"{args.out}: {attribute(_predictor(args), request, args.out)}")


def _embed(args: argparse.Namespace) -> None:
    from spacescale.predict.sequence_embeddings import embed, read_sequences, sequences_of_places

    if (args.format == "bend") != (args.task is not None):
        raise UserError("--format bend and --task belong together")
    if args.task is not None:
        _embed_for_bend(args)
        return
    if (args.sequences is None) == (args.fasta is None) or bool(args.fasta) != bool(args.regions):
        raise UserError("give either --sequences, or --fasta and --regions")
    predictor = _predictor(args)
    sequences = (
        read_sequences(args.sequences)
        if args.sequences
        else sequences_of_places(predictor, args.fasta, args.regions, args.any_genome)
    )
    shape = embed(predictor, sequences, args.out, args.layer, args.pool, args.both_strands)
    print(f"{args.out}: features {shape} of {args.layer}")


def _embed_for_bend(args: argparse.Namespace) -> None:
    from spacescale.predict.bend_files import export_bend
    from spacescale.tasks.read_task import read_task

    if args.sequences or args.regions or args.both_strands or args.pool != "mean":
        raise UserError(
            "--format bend: --sequences, --regions, --both-strands and --pool do not go with it"
        )
    task = read_task(args.task, genome=args.fasta)
    predictor = _predictor(args)
    predictor.require_layer(args.layer)
    paths = export_bend(predictor, task, args.out, args.layer)
    print(f"{args.out}: {len(paths)} files of {args.layer}")

"""FASTA + BigWigs + targets table -> a species dataset, ready for pretraining."""

import argparse
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, get_args

from spacescale import console
from spacescale.arguments import path_option
from spacescale.dataset.reader import SpeciesData
from spacescale.dataset.schema import Codec, Missing
from spacescale.errors import UserError
from spacescale.genome.track_selection import track_names
from spacescale.genome.transforms import TRANSFORMS
from spacescale.parallel.launcher import MPI, SRUN, Variables
from spacescale.prepare.estimate import estimate
from spacescale.prepare.options import DatasetOptions
from spacescale.prepare.stages import STAGES, make_dataset, make_stage
from spacescale.prepare.summary import print_estimate, print_summary
from spacescale.prepare.work_folder import WorkFolder
from spacescale.splits.arguments import add_split_options, take_split_options

EPILOG = """splits:
  Name the held-out contigs with --valid-chroms and --test-chroms, or give --contigs, --windows or
  --random-blocks; data_prep/split.py makes BEDs in which homologous regions share a split. With
  none of them two whole contigs are held out: of those that every track has, the two whose lengths
  are nearest to 10 % of the total, the nearest as test.

many processes:
  --workers N on one machine; `mpirun -n N python data_prep/shard.py …` over several (N - 1 of them
  read and write, and none needs --workers); or slurm/shard_array.sh, which runs the --stages. The
  result is the same to the byte. A run that was stopped goes on when the same command is given.

example:
  python data_prep/shard.py --species yeast --fasta sacCer3.fa.gz --targets targets.txt \\
      --aliases auto --valid-chroms chrII --test-chroms chrXVI --out datasets
"""


_INTERRUPTED = (130, 143)  # the exit statuses of Ctrl-C and SIGTERM


@dataclass(frozen=True)
class Run:
    """What to do with the options: plan only, all of it, or the part-th of `parts` of a stage."""

    plan: bool
    stage: str | None
    part: int
    parts: int


def parse_options(arguments: list[str] | None = None) -> tuple[DatasetOptions, Run]:
    """Return the options of the command line and what to do with them; see `--help`."""
    parser = _parser()
    given = vars(parser.parse_args(arguments))
    given["tracks"] = track_names(given["tracks"])
    part, parts = given.pop("part")
    run = Run(given.pop("plan"), given.pop("stage"), part, parts)
    if parts > 1 and run.stage not in ("tracks", "shards"):
        parser.error("--part goes with --stage tracks or --stage shards")
    splits = take_split_options(given)
    return DatasetOptions(splits=splits, **given), run


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        usage="shard.py --species NAME --fasta GENOME --targets TABLE --out DIR [options]",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_inputs(parser)
    _add_targets(parser)
    add_split_options(parser, windows=True)
    _add_run(parser)
    return parser


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("inputs and output").add_argument
    add("--species", required=True, help="name of the dataset's folder under --out")
    add("--fasta", required=True, type=path_option, help="genome: FASTA, plain or .gz, or .2bit")
    add("--targets", required=True, type=path_option, help="targets table, tab separated")
    add("--out", required=True, type=path_option, help="folder to write into")
    add("--overwrite", action="store_true", help="replace an existing dataset")
    add("--tracks", default="", metavar="A,3|@FILE",
        help="identifiers or indices, or a file with one a line; default: all")  # fmt: skip
    add("--aliases", metavar="FILE|auto", help="contig names of tracks, splits, masks -> FASTA")
    add("--whole-genome", action="store_true",
        help="store contigs without windows, too, for training on bases")  # fmt: skip


def _add_targets(parser: argparse.ArgumentParser) -> None:
    default = DatasetOptions
    add = parser.add_argument_group("windows and targets").add_argument
    add("--seq-length", type=int, default=default.seq_length, metavar="BP",
        help="input, default %(default)s")  # fmt: skip
    add("--bin-size", type=int, default=default.bin_size, metavar="BP", help="default %(default)s")
    add("--target-length", type=int, default=default.target_length, metavar="BINS",
        help="default %(default)s")  # fmt: skip
    add("--stride", type=int, metavar="BP",
        help="between training windows, default one target: they tile")  # fmt: skip
    add("--transform", choices=sorted(TRANSFORMS), default=default.transform,
        help="coverage -> targets, default %(default)s")  # fmt: skip
    add("--missing", choices=get_args(Missing), default=default.missing,
        help="what a bin that was not measured holds; nan: training leaves it out; "
        "default %(default)s")  # fmt: skip
    add(
        "--blacklist", type=path_option, metavar="BED", help="artefacts: brought down to a baseline"
    )
    add("--unmappable", type=path_option, metavar="BED",
        help="bases no read can be placed on: their bins become nan, or are clipped")  # fmt: skip
    add(
        "--gaps",
        type=path_option,
        metavar="BED",
        help="of the assembly: no target has a base in one",
    )


def _add_run(parser: argparse.ArgumentParser) -> None:
    default = DatasetOptions
    add = parser.add_argument_group("storage and processes").add_argument
    add("--plan", action="store_true",
        help="print windows, bytes, shards and time from a sample, and write nothing")  # fmt: skip
    add("--codec", choices=get_args(Codec), default=default.codec, help="default %(default)s")
    add("--windows-per-shard", type=int, default=default.windows_per_shard, metavar="N",
        help="default %(default)s")  # fmt: skip
    add("--workers", type=int, default=default.workers, metavar="N",
        help="processes, default %(default)s")  # fmt: skip
    add("--stage", choices=STAGES, help="one step only, as the jobs of a cluster do them")
    add("--part", type=_part, default=(1, 1), metavar="I/N",
        help="with --stage tracks or shards: the I-th of N parts, from 1")  # fmt: skip


def _part(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with 1 <= I <= N, such as 3/16")
    return int(part), int(parts)


def print_settings(options: DatasetOptions) -> None:
    """Print what will be made, defaults included."""
    print(
        f"{options.species}: input {options.seq_length:,} bp, target {options.target_length} bins "
        f"of {options.bin_size} bp, stride {options.stride or options.span:,} bp, "
        f"transform {options.transform}",
        flush=True,
    )


def make(options: DatasetOptions, run: Run, executor: Executor | None) -> None:
    """Do what was asked for, and print what came of it."""
    start = time.perf_counter()
    print_settings(options)
    if run.plan:
        print_estimate(estimate(options), options)
        return
    advice: list[str] = []
    told = {"notify": _print_line, "advise": advice.append}
    if run.stage is None:
        path = make_dataset(options, executor, **told)
    else:
        path = make_stage(options, run.stage, run.part, run.parts, executor, **told)
    if run.stage in (None, "finish"):
        print_summary(SpeciesData.open(path), time.perf_counter() - start, advice)
    else:
        print(f"stage {run.stage}, part {run.part}/{run.parts}, is done in {path}")


def _print_line(line: str) -> None:
    print(line, flush=True)


def run_command(executor: Executor | None) -> int:
    """Run the command in this process and the executor's; returns the exit status."""
    options = None
    try:
        options, run = parse_options()
        if executor and options.workers > 1:
            raise UserError("under mpirun its processes do the work: leave --workers out")
        make(options, run, executor)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, SystemExit) as stop:
        if options is None:  # --help, or arguments that argparse refused
            raise
        print(f"interrupted: {WorkFolder.of(options.target).how_to_go_on()}", file=sys.stderr)
        return 143 if isinstance(stop, SystemExit) else 130
    return 0


def started_by() -> Variables | None:
    """Return the variables of the launcher by which this is one of several processes, if it is."""
    return next((v for v in (*MPI, SRUN) if os.environ.get(v.size, "1") != "1"), None)


def _launched_rank(started: Variables) -> int:
    return int(os.environ.get(started.rank, "0"))


def run_over_mpi(started: Variables) -> int:
    """Run the command on the first process, which hands out work to all others."""
    try:
        comm, executor_class = _communicator(started)
    except UserError as error:
        if _launched_rank(started) == 0:
            print(f"error: {error}", file=sys.stderr)
        return 2
    status = None
    with executor_class(comm, root=0) as executor:
        if executor is not None:
            try:
                status = run_command(executor)
            except SystemExit as stop:
                status = stop.code
            except Exception:
                # Were it to escape, the other processes would wait for this one for ever.
                traceback.print_exc()
                status = 1
            if status in _INTERRUPTED:
                # Else this process would wait until the others have done what they are at.
                comm.Abort(status)
    return comm.bcast(status, root=0)


def _communicator(started: Variables) -> tuple[Any, Callable[..., AbstractContextManager[Any]]]:
    """Return MPI's communicator over all processes, and the executor class that works over it."""
    told = f"{started.size}={os.environ[started.size]}"
    left_over = f"if {started.size} is left over from an interactive shell: unset {started.size}"
    try:
        from mpi4py import MPI
        from mpi4py.futures import MPICommExecutor
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"several processes were started ({told}), but MPI is not to be had ({error}): pip "
            "install 'spacescale[prep]' and an MPI library (such as pip install mpich), or start "
            f"one process with --workers; {left_over}"
        ) from None
    found = MPI.COMM_WORLD.Get_size()
    if str(found) != os.environ[started.size]:
        raise UserError(
            f"several processes were started ({told}), but MPI knows of {found}: start them with "
            "the mpirun of the MPI library that mpi4py loads, or with srun --mpi=pmi2; "
            f"{left_over}"
        )
    return MPI.COMM_WORLD, MPICommExecutor


def main() -> int:
    """Run the command; returns the exit status."""
    started = started_by()
    if started and _launched_rank(started) > 0:
        # The launcher passes signals on to every process; the first one acts for all.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return run_over_mpi(started)
    # A terminated run ends its workers, and says how it can be continued.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return run_over_mpi(started) if started else run_command(None)


if __name__ == "__main__":
    sys.exit(console.run(main, goes_on=True))

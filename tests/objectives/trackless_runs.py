"""Small runs of profiles with hidden bases on a species with tracks and one without."""

from pathlib import Path

from hybrid_runs import FEW, HYBRID, STOPPED_AT, run
from small_datasets import write_small_dataset
from small_genomes import genome_options, write_fasta

from spacescale.checkpoint.convert import convert
from spacescale.checkpoint.probe import Agreement
from spacescale.prepare.genome_dataset import make_genome

EQUAL = "data.species_balance=1"
# Micro-steps of a single window, of either species alone: half of them wren's, then a quarter.
BOTH = [*HYBRID, EQUAL, "bases.first_share=0.5", "data.micro_batch_size=1",
        "run.best_metric=valid/bases/perplexity"]  # fmt: skip
# Micro-steps of two windows, of either species alone or one of each. The seed is one with which no
# token finds two experts as good, and no base two letters as likely, but for rounding.
PAIRS = [*FEW, EQUAL, "bases.trackless_share=0.75", 'data.species_importance={"wren": 3}',
         "data.micro_batch_size=2", "run.seed=2"]  # fmt: skip


def write_inputs(folder: Path) -> None:
    """finch, and wren, a genome alone, which comes first."""
    write_small_dataset(folder / "data/finch")
    fasta = write_fasta(folder / "genome.fa")
    made = make_genome(genome_options(fasta, folder / "data", species="wren"))
    made.rename(folder / "data/a_wren")


def one_process(folder: Path) -> list[Agreement | None]:
    """Whole and stopped; with pairs of windows; exports."""
    run(folder, "both", BOTH)
    run(folder, "halted", BOTH, STOPPED_AT)
    run(folder, "halted", BOTH, resume="must")
    run(folder, "pairs-1", PAIRS)
    outs = (("for_use", False), ("whole", True))
    return [convert(folder / "both", folder / out, whole=whole) for out, whole in outs]


def two_processes(folder: Path) -> None:
    """What one process did, each with one window of a pair, at two ZeRO stages."""
    for zero in (2, 3):
        run(folder, f"pairs-2-zero{zero}", [*PAIRS, "data.micro_batch_size=1"], zero=zero)

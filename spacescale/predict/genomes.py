"""The genome that a model is used on."""

from __future__ import annotations

from pathlib import Path

from spacescale.genome.open_genome import OpenGenome, open_genome
from spacescale.predict.predictor import Predictor


def genome_for(predictor: Predictor, fasta: Path, any_genome: bool = False) -> OpenGenome:
    """Open a FASTA (.gz too) or 2bit file to use a model on.

    any_genome: of whatever assembly or species. Raises UserError as `open_genome`, and for
    contigs of other lengths than those that the model was trained on, see
    `TrainedModel.check_genome`.
    """
    genome = open_genome(fasta)
    if not any_genome:
        predictor.trained.check_genome(predictor.species, fasta, genome.lengths)
    return genome

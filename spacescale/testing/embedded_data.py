"""The embedded data set: simulated genomes, sharded by the ordinary tool, made once and kept."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from spacescale.errors import UserError
from spacescale.overrides import build_config
from spacescale.prepare.options import DatasetOptions
from spacescale.prepare.stages import make_dataset
from spacescale.presets import EMBEDDED_PRESET
from spacescale.splits.options import SplitOptions
from spacescale.testing.simulated_genomes import write_simulated_genomes

VERSION = 3  # raise it when the simulation or the shard format changes


def embedded_data() -> Path:
    """Return the folder of the embedded species data sets, made at first use (under a minute).

    It lies under $XDG_CACHE_HOME/spacescale, by default ~/.cache/spacescale, beside the FASTA,
    BigWig and targets files it was made from.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = home / "spacescale" / f"embedded-v{VERSION}"
    if folder.is_dir():
        return folder / "shards"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder.parent}: cannot hold the embedded data ({error.strerror}); set "
            "XDG_CACHE_HOME to a folder that can, or give --data"
        ) from None
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    model = build_config(EMBEDDED_PRESET, []).space
    try:
        for species in write_simulated_genomes(partial / "genomes"):
            make_dataset(
                DatasetOptions(
                    species=species.name,
                    fasta=species.fasta,
                    targets=species.targets,
                    out=partial / "shards",
                    seq_length=model.seq_length,
                    bin_size=model.bin_size,
                    target_length=model.target_length,
                    # Training windows overlap: each motif is seen at several places of a window.
                    stride=model.target_length * model.bin_size // 4,
                    splits=SplitOptions(contigs=species.contigs),
                )
            )
        partial.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was faster, with the same result
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder / "shards"

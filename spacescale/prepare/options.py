"""What a species dataset is made from and how: options of data_prep/shard.py and genome.py."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from spacescale.dataset.schema import Codec, Missing, Storage
from spacescale.errors import UserError
from spacescale.genome.transforms import get_transform
from spacescale.splits.options import SplitOptions


@dataclass(frozen=True, kw_only=True)
class SpeciesOptions:
    """What all datasets have in common: their name, their place, and names of contigs.

    species: name of the dataset's folder under `out`. aliases: None, 'auto' or a two-column file:
    names in tracks or BEDs to names in the genome.
    Raises UserError naming the option, its value and what is allowed.
    """

    species: str
    out: Path
    aliases: str | Path | None = None
    overwrite: bool = False

    def __post_init__(self):
        # No dots: they separate the parts of parameter names.
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", self.species):
            raise UserError(f"species {self.species!r}: use letters, digits, '_' and '-'")

    @property
    def target(self) -> Path:
        """The dataset's folder."""
        return self.out / self.species


@dataclass(frozen=True, kw_only=True)
class OutputOptions(SpeciesOptions):
    """What made and imported datasets of tracks have in common: tracks, storage and place.

    targets: the targets table. tracks: identifiers or indices of the tracks to take, none meaning
    all. codec, windows_per_shard: how the targets are stored.
    workers: processes that read and write; it does not change the result.
    Raises UserError naming the option, its value and what is allowed.
    """

    targets: Path
    tracks: tuple[str, ...] = ()
    missing: Missing = "zero"
    codec: Codec = "pcodec"
    windows_per_shard: int = 16
    workers: int = 1

    def __post_init__(self):
        super().__post_init__()
        self._require_positive("windows_per_shard", "workers")

    def _require_positive(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} {value} must be at least 1")

    @property
    def storage(self) -> Storage:
        """How the targets will be stored."""
        return Storage(codec=self.codec, windows_per_shard=self.windows_per_shard)


@dataclass(frozen=True, kw_only=True)
class DatasetOptions(OutputOptions):
    """What to make a species dataset from. Lengths in bp, target_length in bins.

    stride: distance of neighbouring training targets, default one target (target_length *
    bin_size), so that they tile; the targets of all other splits always tile.
    missing: what a bin without any covered base becomes, 0 or NaN ("not measured", which training
    leaves out). blacklist, unmappable, gaps: BEDs of artefacts, of bases that reads cannot be
    placed on, and of assembly gaps.
    splits: which windows are for what. whole_genome: contigs without windows are stored, too.
    """

    fasta: Path
    whole_genome: bool = False
    seq_length: int = 16_384
    bin_size: int = 128
    target_length: int = 112
    stride: int | None = None
    transform: str = "basenji2020"
    blacklist: Path | None = None
    unmappable: Path | None = None
    gaps: Path | None = None
    splits: SplitOptions = field(default_factory=SplitOptions)

    def __post_init__(self):
        super().__post_init__()
        self._require_positive("seq_length", "bin_size", "target_length", "stride")
        margin = self.seq_length - self.span
        if margin < 0 or margin % 2:
            raise UserError(
                f"seq_length {self.seq_length} must exceed the target's {self.target_length} bins "
                f"x {self.bin_size} bp = {self.span} bp by an even number of bp, or equal it"
            )
        if self.splits.windows and self.stride:
            raise UserError(
                f"stride {self.stride} is for tiling; --windows lists the windows one by one"
            )
        get_transform(self.transform)

    @property
    def span(self) -> int:
        """Length of a target interval in bp."""
        return self.target_length * self.bin_size

    @property
    def masks(self) -> dict[str, Path]:
        """The BEDs of masks that were given, by the name of their option."""
        paths = {"blacklist": self.blacklist, "unmappable": self.unmappable, "gaps": self.gaps}
        return {name: path for name, path in paths.items() if path is not None}


@dataclass(frozen=True, kw_only=True)
class GenomeOptions(SpeciesOptions):
    """What to make a species without tracks from.

    splits: which stretches are for what. all_train: nothing is held out.
    """

    fasta: Path
    all_train: bool = False
    splits: SplitOptions = field(default_factory=SplitOptions)

    def __post_init__(self):
        super().__post_init__()
        if self.all_train and self.splits != SplitOptions():
            raise UserError("--all-train holds nothing out: leave the options of splits out")
        if self.splits.windows:
            raise UserError("--windows lists windows of targets, and a genome alone has none")

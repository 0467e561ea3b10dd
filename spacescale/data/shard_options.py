"""What a species dataset is made from and how: the options of data_prep/shard.py."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from spacescale.errors import UserError
from spacescale.genome.splits import shares_of
from spacescale.genome.transforms import get_transform

Codec = Literal["pcodec", "zstd", "none"]
Missing = Literal["zero", "nan"]


@dataclass(frozen=True)
class ShardOptions:
    """What to make a species dataset from. Lengths in bp, target_length in bins.

    species: name of the dataset's folder under `out`. tracks: identifiers or indices of the
    targets table to take, none meaning all.
    stride: distance of neighbouring training targets, default one target (target_length *
    bin_size), so that they tile; the targets of all other splits always tile.
    missing: what a bin without any covered base becomes, 0 or NaN ("not measured", which training
    leaves out). blacklist, unmappable, gaps: BEDs of artefacts, of bases that reads cannot be
    placed on, and of assembly gaps.
    Splits come from `contigs`, a BED of chrom start end split, whose names valid_folds and
    test_folds may turn into valid and test (all others then train); or from `windows`, the same but
    of single windows, each with its target at the centre; or from the *_chroms, where
    an empty train_chroms means every contig that is neither valid nor test; or from random_blocks,
    blocks of that many bp dealt out by split_seed, valid_share and test_share. With none of them
    make_plan holds out two contigs. margin: a target nearer than this many bp to a target of
    another split is left out, of train rather than valid, of valid rather than test.
    aliases: None, 'auto' or a two-column file.
    codec, windows_per_shard: how the targets are stored.
    workers: processes that read tracks; it does not change the result.
    Raises UserError naming the option, its value and what is allowed.
    """

    species: str
    fasta: Path
    targets: Path
    out: Path
    tracks: tuple[str, ...] = ()
    seq_length: int = 16_384
    bin_size: int = 128
    target_length: int = 112
    stride: int | None = None
    transform: str = "basenji2020"
    missing: Missing = "zero"
    blacklist: Path | None = None
    unmappable: Path | None = None
    gaps: Path | None = None
    train_chroms: tuple[str, ...] = ()
    valid_chroms: tuple[str, ...] = ()
    test_chroms: tuple[str, ...] = ()
    contigs: Path | None = None
    windows: Path | None = None
    valid_folds: tuple[str, ...] = ()
    test_folds: tuple[str, ...] = ()
    random_blocks: int | None = None
    split_seed: int = 0
    valid_share: float = 0.1
    test_share: float = 0.1
    margin: int = 0
    aliases: str | Path | None = None
    codec: Codec = "pcodec"
    windows_per_shard: int = 16
    overwrite: bool = False
    workers: int = 1

    def __post_init__(self):
        check_species_name(self.species)
        for name in (
            "seq_length", "bin_size", "target_length", "stride", "random_blocks",
            "windows_per_shard", "workers",
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} {value} must be at least 1")
        margin = self.seq_length - self.span
        if margin < 0 or margin % 2:
            raise UserError(
                f"seq_length {self.seq_length} must exceed the target's {self.target_length} bins "
                f"x {self.bin_size} bp = {self.span} bp by an even number of bp, or equal it"
            )
        self._check_splits()
        get_transform(self.transform)

    def _check_splits(self) -> None:
        ways = {
            "--contigs BED": self.contigs,
            "--windows BED": self.windows,
            "--*-chroms": any(self.chroms_of_split.values()),
            "--random-blocks BP": self.random_blocks,
        }
        if len(given := [way for way, value in ways.items() if value]) > 1:
            raise UserError(f"give the splits one way, not by {' and '.join(given)}")
        if (self.valid_folds or self.test_folds) and not (self.contigs or self.windows):
            raise UserError("valid_folds and test_folds name folds of a BED: add --contigs BED")
        if twice := set(self.valid_folds) & set(self.test_folds):
            raise UserError(f"fold {min(twice)} is in valid_folds and in test_folds")
        if self.windows and self.stride:
            raise UserError(
                f"stride {self.stride} is for tiling; --windows lists the windows one by one"
            )
        shares_of(self.valid_share, self.test_share)
        for name in ("split_seed", "valid_share", "test_share"):
            if not self.random_blocks and getattr(self, name) != getattr(ShardOptions, name):
                raise UserError(f"{name} {getattr(self, name)} is for --random-blocks BP")
        if self.margin < 0:
            raise UserError(f"margin {self.margin} must be at least 0")

    @property
    def span(self) -> int:
        """Length of a target interval in bp."""
        return self.target_length * self.bin_size

    @property
    def chroms_of_split(self) -> dict[str, tuple[str, ...]]:
        """The contigs named for each split."""
        return {"train": self.train_chroms, "valid": self.valid_chroms, "test": self.test_chroms}

    @property
    def masks(self) -> dict[str, Path]:
        """The BEDs of masks that were given, by the name of their option."""
        paths = {"blacklist": self.blacklist, "unmappable": self.unmappable, "gaps": self.gaps}
        return {name: path for name, path in paths.items() if path is not None}


def check_species_name(name: str) -> None:
    """Raise UserError unless the name can be that of a folder and part of parameter names."""
    # No dots: they separate the parts of parameter names.
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise UserError(f"species {name!r}: use letters, digits, '_' and '-'")

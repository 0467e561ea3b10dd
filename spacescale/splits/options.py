"""How a genome is split: the options of data_prep/shard.py that choose windows for splits."""

from dataclasses import dataclass
from pathlib import Path

from spacescale.errors import UserError
from spacescale.splits.dealing import shares_of


@dataclass(frozen=True)
class SplitOptions:
    """Where splits come from. Lengths in bp.

    They come from `contigs`, a BED of chrom start end split, whose names valid_folds and
    test_folds may turn into valid and test (all others then train); or from `windows`, the same but
    of single windows, each with its target at the centre; or from the *_chroms, where
    an empty train_chroms means every contig that is neither valid nor test; or from random_blocks,
    blocks of that many bp dealt out by split_seed, valid_share and test_share. With none of them
    `plan_splits` holds out two contigs. margin: a target nearer than this to a target of
    another split is left out, of train rather than valid, of valid rather than test.
    Raises UserError naming the option, its value and what is allowed.
    """

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

    def __post_init__(self):
        if self.random_blocks is not None and self.random_blocks < 1:
            raise UserError(f"random_blocks {self.random_blocks} must be at least 1")
        ways = {
            "--contigs BED": self.contigs,
            "--windows BED": self.windows,
            "--*-chroms": any(self.chroms_of_split.values()),
            "--random-blocks BP": self.random_blocks,
        }
        if len(given := [way for way, value in ways.items() if value]) > 1:
            raise UserError(f"give the splits one way, not by {' and '.join(given)}")
        if (self.valid_folds or self.test_folds) and not self.bed:
            raise UserError("valid_folds and test_folds name folds of a BED: add --contigs BED")
        if twice := set(self.valid_folds) & set(self.test_folds):
            raise UserError(f"fold {min(twice)} is in valid_folds and in test_folds")
        shares_of(self.valid_share, self.test_share)
        for name in ("split_seed", "valid_share", "test_share"):
            if not self.random_blocks and getattr(self, name) != getattr(SplitOptions, name):
                raise UserError(f"{name} {getattr(self, name)} is for --random-blocks BP")
        if self.margin < 0:
            raise UserError(f"margin {self.margin} must be at least 0")

    @property
    def bed(self) -> Path | None:
        """The BED that names the splits, of stretches or of windows."""
        return self.contigs or self.windows

    @property
    def chroms_of_split(self) -> dict[str, tuple[str, ...]]:
        """The contigs named for each split."""
        return {"train": self.train_chroms, "valid": self.valid_chroms, "test": self.test_chroms}

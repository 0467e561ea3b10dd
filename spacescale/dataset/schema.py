"""The manifest of a species dataset; README.md says what each field means on disk."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

FORMAT = "spacescale-species"
FORMAT_VERSION = 3
OLDEST_VERSION = 2  # that is still read
MANIFEST = "manifest.json"
EXCLUDED = "excluded"  # in the place of a split: bases that none may use

Codec = Literal["pcodec", "zstd", "none"]
Missing = Literal["zero", "nan"]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(_Strict):
    """Size and SHA-256 of a file."""

    bytes: int
    sha256: str


class Source(FileEntry):
    """A file the dataset was made from; only its name is kept, no path of the machine."""

    name: str


class Sources(_Strict):
    """Everything the dataset was made from.

    tracks: one per row of tracks.tsv, none where the targets were imported. masks: by option name
    (blacklist, unmappable, gaps). imported: files of the dataset that was converted.
    """

    fasta: Source | None = None
    targets: Source | None = None
    tracks: list[Source] = Field(default_factory=list)
    split_bed: Source | None = None
    masks: dict[str, Source] = Field(default_factory=dict)
    imported: list[Source] = Field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contig:
    """A contig whose bases are stored, or a piece of one; all in bp.

    length bases from coordinate `start` on lie at `offset` in `genome`. whole: these are all of
    its bases, so what lies outside is N; around a piece the sequence is not known. A dataclass,
    because draft genomes have thousands of them, and models would take four times the memory.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str
    length: int
    offset: int
    start: int = 0
    whole: bool = True


class TransformInfo(_Strict):
    """Which transform made the targets, see spacescale.genome.transforms."""

    name: str
    version: int


class Storage(_Strict):
    """How the targets lie on disk: which format, compressed how, and how many windows a shard."""

    format: Literal["zarr", "webdataset"] = "zarr"
    codec: Codec = "pcodec"
    windows_per_shard: int = 16


class SequenceInfo(_Strict):
    """What is known of the stored bases beside their codes.

    hash: SHA-256 over the stretches of sequence.bed that a split may use. lower_case: bases that
    `repeats` marks; None without `repeats`.
    """

    hash: str
    lower_case: int | None = None


class Split(_Strict):
    """How the genome was split. hash: SHA-256 over the target intervals and their splits.

    Without tracks it is that of the sequence. method: chroms, bed, random_blocks, held_out (nothing
    was asked for), all_train or imported. settings: what it was given, such as seed and shares.
    """

    method: Literal["chroms", "bed", "random_blocks", "held_out", "all_train", "imported"]
    settings: dict[str, str | int | float | list[str]] = Field(default_factory=dict)
    hash: str


class SplitOverlap(_Strict):
    """What the windows of `split` share with those of `other`, another split; lengths in bp.

    targets: windows whose target overlaps a target of `other`, so that the same bases are in both;
    example names the first with what it overlaps. seeing: windows whose input reaches into a target
    of `other`, into at most seen_bp of them. sharing: windows whose input overlaps an input of
    `other`, over at most shared_bp.
    """

    split: str
    other: str
    targets: int
    example: str
    seeing: int
    seen_bp: int
    sharing: int
    shared_bp: int

    def __str__(self) -> str:
        if self.targets:
            return (
                f"{self.split}: {self.targets} targets overlap targets of {self.other}, first "
                f"{self.example}"
            )
        if self.seeing:
            return (
                f"{self.split}: {self.seeing} windows see up to {self.seen_bp:,} bp of targets of "
                f"{self.other}"
            )
        return (
            f"{self.split}: {self.sharing} windows share up to {self.shared_bp:,} bp of input with "
            f"{self.other}, but no target"
        )


class Report(_Strict):
    """What was left out or changed on the way.

    dropped_unknown_bases: windows whose target was more than half N; dropped_gaps: with a base in
    an assembly gap; dropped_unmappable: with more than half of their bins unmappable;
    dropped_unmeasured: in which no track has a value. dropped_near_other_split:
    windows within the margin of another split. split_overlaps: what splits share nevertheless.
    contigs_without_tracks: {contig: tracks that lack it; 'every track', or the first 20}.
    extra_contigs: {contig of the tracks that the FASTA lacks: number of tracks}.
    too_short: contigs or intervals shorter than one target. unassigned: contigs in no split.
    ambiguous_bases: IUPAC letters and X read as N. saturated_bins: {track: bins beyond float16}.
    """

    dropped_unknown_bases: int = 0
    dropped_gaps: int = 0
    dropped_unmappable: int = 0
    dropped_unmeasured: int = 0
    dropped_near_other_split: int = 0
    split_overlaps: list[SplitOverlap] = Field(default_factory=list)
    contigs_without_tracks: dict[str, list[str]] = Field(default_factory=dict)
    extra_contigs: dict[str, int] = Field(default_factory=dict)
    too_short: list[str] = Field(default_factory=list)
    unassigned: list[str] = Field(default_factory=list)
    ambiguous_bases: int = 0
    saturated_bins: dict[str, int] = Field(default_factory=dict)
    warnings: list[str] = Field(default_factory=list)


class GenomeManifest(_Strict):
    """manifest.json of a species without tracks, and what it shares with those that have tracks.

    sequence: None before version 3. checksum: SHA-256 of the file while this field is empty;
    save_manifest fills it in.
    """

    format: Literal["spacescale-species"] = FORMAT
    format_version: Literal[2, 3] = FORMAT_VERSION
    species: str
    split: Split
    contigs: list[Contig]
    aliases: dict[str, str]
    sequence: SequenceInfo | None = None
    sources: Sources
    report: Report
    files: dict[str, FileEntry]
    created_with: dict[str, str]
    checksum: str = ""

    @property
    def whole_contigs(self) -> dict[str, int]:
        """Length in bp of the contigs of which all bases are here, by name."""
        return {contig.name: contig.length for contig in self.contigs if contig.whole}


class Manifest(GenomeManifest):
    """manifest.json of a species with tracks. Lengths in bp, except target_length in bins.

    stride: None where windows were imported. missing: what a bin without a measured base holds.
    """

    seq_length: int
    bin_size: int
    target_length: int
    stride: int | None
    transform: TransformInfo
    missing: Missing
    storage: Storage
    num_windows: dict[str, int]
    num_tracks: int
    mean_over: Literal["train", "all"]

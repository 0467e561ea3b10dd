"""Simulated genomes with a known regulatory grammar, written as the ordinary files users have.

Three species, unequal in size, GC content and tracks. Oriented 9 bp motifs, full or weak, lie in
random sequence. Shared motifs mean the same everywhere. The private motifs occur in every genome
but act in one species only, so that a model must know the species. An opener counts double when
a partner lies nearby, so that the grammar is no plain sum. What a model ought to learn is stated
below as data, and `expected_signal` turns it into profiles.

Shapes: L bases, T tracks of a species; signal is coverage, float32 ≥ 0, in arbitrary units.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spacescale.genome.dna import encode, reverse_complement

BACKGROUND = 0.2  # coverage without any motif
DEPTH = 2.0  # counts per unit of coverage in a step: the larger, the less noise
STEP_BP = 16  # resolution of the written coverage
WEAK_STRENGTH, WEAK_SHARE = 0.5, 0.35
MOTIF_GAP_BP = (120, 420)  # random bases between planted motifs, uniform
PARTNERED_SHARE, PARTNER_GAP_BP = 0.5, (10, 100)
CONTIG_SHARES = (
    ("chr1", 0.34, "train"), ("chr2", 0.26, "train"), ("chr3", 0.20, "train"),
    ("chr4", 0.10, "valid"), ("chr5", 0.10, "test"),
)  # fmt: skip
MIN_CONTIG_BP = 4096


@dataclass(frozen=True)
class Motif:
    """An oriented consensus of odd length; its weak form differs in one base."""

    name: str
    full: str
    weak: str
    share: float  # of the planted motifs


@dataclass(frozen=True)
class Interaction:
    """`motif` counts `factor`-fold when `partner`, on either strand, is at most this far away."""

    motif: str
    partner: str
    within_bp: int
    factor: float


@dataclass(frozen=True)
class Bump:
    """A Gaussian of height 1, this far downstream of the motif's centre, in bp."""

    offset_bp: int
    sd_bp: float


@dataclass(frozen=True)
class SimulatedTrack:
    """Background plus, for each motif hit, weight × strength × bumps.

    strand '+' sees forward hits, '-' reverse ones; '.' sees both.
    """

    identifier: str
    assay: str
    description: str
    weights: dict[str, float]  # coverage per motif of full strength
    bumps: tuple[Bump, ...]
    strand: str = "."


@dataclass(frozen=True)
class SpeciesGrammar:
    """One simulated species: its genome and its tracks."""

    name: str
    assembly: str
    genome_bp: int
    gc: float
    tracks: tuple[SimulatedTrack, ...]

    @property
    def strand_pairs(self) -> list[int]:
        """For each track the position of its opposite strand, its own if unstranded."""
        opposite = {"+": "-", "-": "+", ".": "."}
        place = {(track.description, track.strand): i for i, track in enumerate(self.tracks)}
        return [place[track.description, opposite[track.strand]] for track in self.tracks]


@dataclass(frozen=True)
class SimulatedSpecies:
    """The files of one species, and the grammar behind them."""

    name: str
    fasta: Path
    targets: Path
    contigs: Path
    grammar: SpeciesGrammar


MOTIFS = (
    Motif("opener", "TGACGTAAC", "TGACATAAC", 0.34),
    Motif("partner", "CCATTTGGA", "CCATTAGGA", 0.06),
    Motif("promoter", "GCTATAAGG", "GCTATACGG", 0.27),
    Motif("finch_only", "AGGTCAACT", "AGGTCTACT", 0.11),
    Motif("perch_only", "CTTGCGATA", "CTTGAGATA", 0.11),
    Motif("moth_only", "GATTCCGTG", "GATTCAGTG", 0.11),
)
INTERACTION = Interaction("opener", "partner", within_bp=150, factor=2.0)

_OPEN, _SITE = (Bump(0, 120.0),), (Bump(0, 60.0),)
_FLANKS = (Bump(-300, 120.0), Bump(300, 120.0))
_DOWNSTREAM = (Bump(80, 50.0),)


def _accessibility(stage: str, private: str, weight: float) -> SimulatedTrack:
    weights = {"opener": 6.0, "promoter": 3.0, private: weight}
    return SimulatedTrack(f"atac_{stage}", "dnase_atac", f"ATAC:{stage}", weights, _OPEN)


def _binding(motif: str) -> SimulatedTrack:
    return SimulatedTrack(f"chip_{motif}", "tf_chip", f"CHIP:{motif}", {motif: 9.0}, _SITE)


def _histone(mark: str, weights: dict[str, float]) -> SimulatedTrack:
    return SimulatedTrack(f"chip_{mark.lower()}", "histone_chip", f"CHIP:{mark}", weights, _FLANKS)


def _cage(stage: str, weights: dict[str, float]) -> tuple[SimulatedTrack, SimulatedTrack]:
    plus, minus = (
        SimulatedTrack(f"cage_{stage}_{word}", "cage", f"CAGE:{stage}", weights, _DOWNSTREAM, sign)
        for word, sign in (("plus", "+"), ("minus", "-"))
    )
    return plus, minus


SPECIES = (
    SpeciesGrammar(
        name="finch",
        assembly="simFinch1",
        genome_bp=900_000,
        gc=0.42,
        tracks=(
            _accessibility("embryo", "finch_only", 3.0),
            _accessibility("adult", "finch_only", 8.0),
            _binding("opener"),
            _binding("finch_only"),
            _histone("H3K27ac", {"opener": 6.0, "finch_only": 6.0}),
            _histone("H3K4me3", {"promoter": 8.0}),
            *_cage("embryo", {"promoter": 12.0}),
            *_cage("adult", {"promoter": 8.0, "finch_only": 12.0}),
        ),
    ),
    SpeciesGrammar(
        name="perch",
        assembly="simPerch1",
        genome_bp=600_000,
        gc=0.50,
        tracks=(
            _accessibility("larva", "perch_only", 6.0),
            _binding("opener"),
            _binding("perch_only"),
            _histone("H3K4me3", {"promoter": 8.0, "perch_only": 4.0}),
            *_cage("larva", {"promoter": 12.0}),
        ),
    ),
    SpeciesGrammar(
        name="moth",
        assembly="simMoth1",
        genome_bp=350_000,
        gc=0.36,
        tracks=(
            _accessibility("pupa", "moth_only", 6.0),
            _binding("moth_only"),
            *_cage("pupa", {"promoter": 10.0, "moth_only": 6.0}),
        ),
    ),
)


def grammar_of(species: str) -> SpeciesGrammar:
    """Return the grammar of the species of that name."""
    return {grammar.name: grammar for grammar in SPECIES}[species]


def expected_signal(codes: np.ndarray, species: str) -> np.ndarray:
    """Return the noise-free signal, float32 [T, L], of base codes, uint8 [L], in a species."""
    grammar = grammar_of(species)
    hits = {motif.name: find_motif(codes, motif) for motif in MOTIFS}
    hits[INTERACTION.motif] = _interact(hits[INTERACTION.motif], hits[INTERACTION.partner])
    signal = np.full((len(grammar.tracks), len(codes)), BACKGROUND, dtype=np.float32)
    for row, track in zip(signal, grammar.tracks, strict=True):
        for motif, weight in track.weights.items():
            for centre, direction, strength in zip(*hits[motif], strict=True):
                if track.strand == "." or direction == (1 if track.strand == "+" else -1):
                    _add_bumps(row, int(centre), int(direction), weight * strength, track.bumps)
    return signal


_Hits = tuple[np.ndarray, np.ndarray, np.ndarray]  # centres in bp, directions ±1, strengths


def find_motif(codes: np.ndarray, motif: Motif) -> _Hits:
    """Return centres in bp, directions ±1 and strengths of a motif, full or weak, in codes (L,)."""
    found = []
    for letters, strength in ((motif.full, 1.0), (motif.weak, WEAK_STRENGTH)):
        forward = encode(letters)
        for pattern, direction in ((forward, 1), (reverse_complement(forward), -1)):
            starts = _matches(codes, pattern)
            centres = starts + len(pattern) // 2
            found.append((centres, np.full_like(starts, direction), np.full(len(starts), strength)))
    centres, directions, strengths = (np.concatenate(part) for part in zip(*found, strict=True))
    return centres, directions, strengths


def _matches(codes: np.ndarray, pattern: np.ndarray) -> np.ndarray:
    """Return the starts, int64, at which the pattern lies in the codes."""
    starts = np.flatnonzero(codes[: max(len(codes) - len(pattern) + 1, 0)] == pattern[0])
    for offset, code in enumerate(pattern[1:], start=1):
        starts = starts[codes[starts + offset] == code]
    return starts


def _interact(hits: _Hits, partners: _Hits) -> _Hits:
    centres, directions, strengths = hits
    distance = np.abs(centres[:, None] - partners[0][None, :])
    near = (distance <= INTERACTION.within_bp).any(axis=1)
    return centres, directions, strengths * np.where(near, INTERACTION.factor, 1.0)


def _add_bumps(
    row: np.ndarray, centre: int, direction: int, height: float, bumps: tuple[Bump, ...]
) -> None:
    for bump in bumps:
        middle, reach = centre + direction * bump.offset_bp, int(4 * bump.sd_bp)
        start, end = max(middle - reach, 0), min(middle + reach + 1, len(row))
        distance = (np.arange(start, end) - middle) / bump.sd_bp
        row[start : max(end, start)] += (height * np.exp(-0.5 * distance**2)).astype(np.float32)


def write_simulated_genomes(out: Path, seed: int = 0, scale: float = 1.0) -> list[SimulatedSpecies]:
    """Write a folder per species: genome.fa, targets.txt, contigs.bed and signal/*.bw.

    scale multiplies the genome sizes. The same seed and scale give the same bytes.
    Whole contigs make up each split, so that no base is shared between splits.
    """
    return [
        _write_species(out / grammar.name, grammar, np.random.default_rng([seed, index]), scale)
        for index, grammar in enumerate(SPECIES)
    ]


def _write_species(
    folder: Path, grammar: SpeciesGrammar, rng: np.random.Generator, scale: float
) -> SimulatedSpecies:
    (folder / "signal").mkdir(parents=True, exist_ok=True)
    species = SimulatedSpecies(
        name=grammar.name,
        fasta=folder / "genome.fa",
        targets=folder / "targets.txt",
        contigs=folder / "contigs.bed",
        grammar=grammar,
    )
    genome, coverage, beds = {}, {}, []
    for chrom, share, split in CONTIG_SHARES:
        length = max(int(grammar.genome_bp * share * scale), MIN_CONTIG_BP)
        length -= length % STEP_BP
        genome[chrom] = _sequence(length, grammar.gc, rng)
        coverage[chrom] = _observe(expected_signal(genome[chrom], grammar.name), rng)
        beds.append(f"{chrom}\t0\t{length}\t{split}\n")
    species.contigs.write_text("".join(beds))
    species.targets.write_text(_targets_table(grammar))
    _write_fasta(species.fasta, genome)
    for row, track in enumerate(grammar.tracks):
        per_chrom = {chrom: values[row] for chrom, values in coverage.items()}
        _write_bigwig(folder / "signal" / f"{track.identifier}.bw", per_chrom)
    return species


def _sequence(length: int, gc: float, rng: np.random.Generator) -> np.ndarray:
    """Return random bases with planted motifs, uint8 [length]."""
    at = (1 - gc) / 2
    codes = rng.choice(4, size=length, p=(at, gc / 2, gc / 2, at)).astype(np.uint8)
    by_name = {motif.name: motif for motif in MOTIFS}
    shares = [motif.share for motif in MOTIFS]
    position = int(rng.integers(*MOTIF_GAP_BP))
    while True:
        motif = MOTIFS[rng.choice(len(MOTIFS), p=shares)]
        planted = [motif]
        if motif.name == INTERACTION.motif and rng.random() < PARTNERED_SHARE:
            planted.append(by_name[INTERACTION.partner])
        for each in planted:
            letters = each.weak if rng.random() < WEAK_SHARE else each.full
            site = encode(letters)
            if rng.random() < 0.5:
                site = reverse_complement(site)
            if position + len(site) > length:
                return codes
            codes[position : position + len(site)] = site
            position += len(site) + int(rng.integers(*PARTNER_GAP_BP))
        position += int(rng.integers(*MOTIF_GAP_BP))


def _observe(expected: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return coverage per step, float32 [T, L / STEP_BP]: counting noise around the expected."""
    steps = expected.reshape(len(expected), -1, STEP_BP).mean(axis=2, dtype=np.float64)
    return (rng.poisson(steps * DEPTH) / DEPTH).astype(np.float32)


def _targets_table(grammar: SpeciesGrammar) -> str:
    header = "\tidentifier\tfile\tclip\tclip_soft\tscale\tsum_stat\tstrand_pair\tdescription\tassay"
    rows = [
        f"{index}\t{track.identifier}\tsignal/{track.identifier}.bw\t768\t384\t1\tmean\t{pair}"
        f"\t{track.description}\t{track.assay}"
        for index, (track, pair) in enumerate(
            zip(grammar.tracks, grammar.strand_pairs, strict=True)
        )
    ]
    return "\n".join([header, *rows, ""])


def _write_fasta(path: Path, genome: dict[str, np.ndarray], width: int = 60) -> None:
    letters = np.frombuffer(b"ACGTN", dtype=np.uint8)
    with path.open("wb") as file:
        for chrom, codes in genome.items():
            text = letters[codes].tobytes()
            file.write(b">" + chrom.encode() + b"\n")
            file.writelines(text[i : i + width] + b"\n" for i in range(0, len(text), width))


def _write_bigwig(path: Path, coverage: dict[str, np.ndarray]) -> None:
    import pyBigWig

    with pyBigWig.open(str(path), "w") as bigwig:
        bigwig.addHeader([(chrom, len(x) * STEP_BP) for chrom, x in coverage.items()])
        for chrom, values in coverage.items():
            bigwig.addEntries(chrom, 0, values=values, span=STEP_BP, step=STEP_BP)

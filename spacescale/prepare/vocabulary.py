"""A vocabulary learnt from the training sequence of species folders."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from spacescale.dataset.loader import open_genomes
from spacescale.dataset.species_genome import SpeciesGenome
from spacescale.errors import UserError
from spacescale.files import new_folder
from spacescale.genome import dna
from spacescale.mlm_config import MlmConfig
from spacescale.tokens.bpe import BASES, SPECIALS, train_bpe
from spacescale.tokens.vocabulary import FILE, NAMES, Vocabulary

TEXT_BP = MlmConfig().bpe_bp  # texts to learn from are as long as what will be read as BPE
KMERS = range(3, 9)
SMALLEST = len(SPECIALS) + len(BASES) + 1  # tokens of a BPE that merges anything
Tile = tuple[str, int, int]  # contig, start, end: 0-based half-open


def make_vocabulary(
    data: list[Path],
    out: Path,
    *,
    size: int,
    kmer: int,
    max_bp: int,
    tell: Callable[[str], None] = print,
) -> Vocabulary:
    """Learn a BPE of `size` tokens, join it with the k-mers, and write both into the folder `out`.

    data: species folders with or without tracks, or folders of them. Of their training sequence
    about `max_bp` are read, equally much of each species that has so much, spread evenly over it.
    tell: takes lines for people. The same data give the same bytes. Raises UserError for bad
    options, a folder that is there, data that cannot be read and too little of them; then nothing
    is left.
    """
    if kmer not in KMERS:
        raise UserError(f"--kmer {kmer}: expected {KMERS[0]} to {KMERS[-1]}")
    if size < SMALLEST:
        raise UserError(f"--size {size}: expected {SMALLEST} or more")
    if max_bp < 1:
        raise UserError(f"--max-bp {max_bp}: expected 1 or more")
    with new_folder(out) as folder:
        genomes = open_genomes(data)
        tiles = {name: _tiles(one) for name, one in sorted(genomes.items())}
        shares = even_shares({name: _bp(of) for name, of in tiles.items()}, max_bp)
        chosen = {name: spread(of, shares[name]) for name, of in tiles.items()}
        for name, of in chosen.items():
            tell(f"{name}: {_bp(of):,} of {_bp(tiles[name]):,} bp of training sequence")
        texts = (text for name, of in chosen.items() for text in _texts(genomes[name], of))
        bpe = train_bpe(texts, size, show_progress=sys.stderr.isatty())
        if len(bpe.tokens) != size:
            raise UserError(
                f"--size {size}: the training sequence read of {', '.join(tiles)} yields "
                f"{len(bpe.tokens)} tokens; give more data, a larger --max-bp or a smaller --size"
            )
        vocabulary = Vocabulary(NAMES, kmer, bpe)
        made_from = {
            "species": {
                name: {"manifest_sha256": genomes[name].manifest_hash, "bp": _bp(of)}
                for name, of in chosen.items()
            },
            "tokenizers": importlib.metadata.version("tokenizers"),
        }
        vocabulary.write(folder / FILE, made_from)
    return vocabulary


def even_shares(available: dict[str, int], total: int) -> dict[str, int]:
    """Deal `total` out equally, to none more than is available of it."""
    shares: dict[str, int] = {}
    for name in sorted(available, key=available.__getitem__):  # what the smallest leave is dealt on
        left, others = total - sum(shares.values()), len(available) - len(shares)
        shares[name] = min(available[name], left // others)
    return shares


def spread(tiles: list[Tile], bp: int) -> list[Tile]:
    """About `bp` of the tiles, evenly spaced."""
    count = len(tiles) * bp // max(_bp(tiles), 1)
    return [tiles[int(place)] for place in np.arange(count) * len(tiles) // max(count, 1)]


def _tiles(genome: SpeciesGenome) -> list[Tile]:
    """What training may read, cut into texts."""
    return [
        (stretch.chrom, first, min(first + TEXT_BP, stretch.end))
        for stretch in genome.stretches("train").intervals()
        for first in range(stretch.start, stretch.end, TEXT_BP)
    ]


def _bp(tiles: list[Tile]) -> int:
    return sum(end - start for _, start, end in tiles)


def _texts(genome: SpeciesGenome, tiles: list[Tile]) -> Iterator[str]:
    """The known bases of each tile: N ends a text."""
    for tile in tiles:
        yield from filter(None, dna.decode(genome.codes(*tile)).split("N"))

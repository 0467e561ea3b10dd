"""Each tool finds a motif that a model is made of: its effect, its strand, its species, exactly."""

import csv

import numpy as np
import pytest
from known_motif import BARE, GAIN, LEVEL, MOTIF, TRACK_MEAN, TRACKS, known_predictor

from spacescale.genome.bigwig import BigWig
from spacescale.genome.dna import encode, reverse_complement
from spacescale.predict import region_attributions, region_tracks
from spacescale.predict.effect_tables import score_variants
from spacescale.predict.sequence_embeddings import embed, read_sequences
from spacescale.predict.variant_effects import Scoring

LENGTH, BIN, START = 240, 8, 96  # bp; the motif's middle is that of a bin
SITES = {"forward": encode(MOTIF), "backward": reverse_complement(encode(MOTIF))}
ACTING = {"forward": [True, False, True], "backward": [False, True, True]}  # plus, minus, both
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture
def contigs(tmp_path):
    """The motif on either strand, and none; also as a file."""
    bare = np.random.default_rng(0).integers(0, 4, LENGTH).astype(np.uint8)
    found = {"bare": bare}
    for name, site in SITES.items():
        found[name] = bare.copy()
        found[name][START : START + len(site)] = site
    text = "".join(
        f">{name}\n{''.join('ACGT'[c] for c in codes)}\n" for name, codes in found.items()
    )
    (tmp_path / "known.fa").write_text(text)
    return found


@pytest.mark.parametrize("averaging", [{}, {"both_strands": True, "shifts": (-3, 0, 3)}])
@pytest.mark.parametrize("species", ["finch", "perch"])
def test_predict_finds_the_motif(contigs, tmp_path, species, averaging):
    request = region_tracks.Request(
        fasta=tmp_path / "known.fa", places=list(contigs), unit="stored", **averaging
    )
    files = region_tracks.predict(known_predictor(species), request, tmp_path / "out")
    for name in contigs:
        for row, path in enumerate(files):
            expected = np.full(LENGTH // BIN, BARE)
            if species == "finch" and name in ACTING and ACTING[name][row]:
                expected[(START + len(MOTIF) // 2) // BIN] += GAIN
            with BigWig(path) as bigwig:
                found = bigwig.read(name, 0, LENGTH)[::BIN]
            np.testing.assert_allclose(found, TRACK_MEAN * expected, **CLOSE)


VARIANTS = (  # offset from the motif, lengths of REF and ALT, whether it breaks the motif
    (0, 1, 1, True),
    (8, 1, 1, True),
    (-1, 1, 1, False),
    (9, 1, 1, False),
    (-1, 10, 1, True),
    (-20, 1, 4, False),
)


@pytest.mark.parametrize("species", ["finch", "perch"])
def test_variants_in_the_motif_count(contigs, tmp_path, species):
    lines = ["#CHROM\tPOS\tID\tREF\tALT"]
    for name, codes in contigs.items():
        for offset, before, after, _ in VARIANTS:
            at = START + offset
            ref = "".join("ACGT"[code] for code in codes[at : at + before])
            alt = ref[0] + "A" * (after - 1) if before != after else "ACGT"[(codes[at] + 2) % 4]
            lines.append(f"{name}\t{at + 1}\t.\t{ref}\t{alt}")
    (tmp_path / "known.vcf").write_text("\n".join([*lines, ""]))
    score_variants(
        known_predictor(species), tmp_path / "known.vcf", tmp_path / "known.fa",
        tmp_path / "out.tsv", Scoring(),
    )  # fmt: skip
    with (tmp_path / "out.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    found = np.array([[float(row[c]) for c in ("log2_ratio", "log2_ratio_sd")] for row in rows])
    found = found.reshape(len(contigs), len(VARIANTS), len(TRACKS), 2)
    with_motif, without = (1 + TRACK_MEAN * (10 * BARE + gain) for gain in (GAIN, 0.0))
    expected = np.zeros(found.shape[:3])
    if species == "finch":
        breaks = [breaks for *_, breaks in VARIANTS]
        for contig, name in enumerate(contigs):
            expected[contig] = np.outer(breaks, ACTING.get(name, [False] * 3))
    expected *= np.log2(without / with_motif)
    np.testing.assert_allclose(found[..., 0], expected, **CLOSE)
    np.testing.assert_allclose(found[..., 1], 0, atol=1e-5)  # all averages say the same


@pytest.mark.parametrize("species", ["finch", "perch"])
@pytest.mark.parametrize("method", ["ism", "gradient"])
def test_attributions_spell_the_motif(contigs, tmp_path, species, method):
    flank = 11
    first, last = START - flank, START + len(MOTIF) + flank
    for row, track in enumerate(TRACKS):
        request = region_attributions.Request(
            fasta=tmp_path / "known.fa",
            places=[f"{name}:{first}-{last}" for name in contigs],
            tracks=[track],
            method=method,
            figures=False,
        )
        out = tmp_path / track
        region_attributions.attribute(known_predictor(species), request, out)
        found = np.load(out / "modisco.attributions.npz")["arr_0"]
        for name, values in zip(contigs, found, strict=True):
            if species == "perch" or name == "bare" or not ACTING[name][row]:
                np.testing.assert_allclose(values, 0, atol=1e-5)
                continue
            is_site = np.arange(4)[:, None] == SITES[name]
            shape = is_site - 1.0 if method == "ism" else is_site - 0.25
            scale = GAIN if method == "ism" else values[SITES[name][0], flank] / 0.75
            assert scale > 1
            expected = np.pad(shape * scale, [(0, 0), (flank, flank)])
            np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("species", ["finch", "perch"])
def test_features_tell_the_strand(contigs, tmp_path, species):
    embed(
        known_predictor(species), read_sequences(tmp_path / "known.fa"), tmp_path / "out.npz",
        pool="max",
    )  # fmt: skip
    found = np.load(tmp_path / "out.npz")["features"]
    expected = np.zeros_like(found)
    if species == "finch":
        expected[1, 0] = expected[2, 1] = LEVEL
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)

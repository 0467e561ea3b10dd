import csv
import json
from dataclasses import replace

import pytest
from small_models import genome, predictor, trained
from test_vcf import vcf_of

from spacescale.errors import UserError
from spacescale.model.extend import add_species
from spacescale.predict import effect_tables, tables
from spacescale.predict.effect_tables import score_variants
from spacescale.predict.predictor import Predictor
from spacescale.predict.variant_effects import EffectPredictor, Scoring
from spacescale.predict.vcf import Variant

DNA = genome()
SCORING = Scoring(scores=("log2_ratio", "d2"), unit="means", shifts=(0,))


def row(chrom, start, ref=None, alt=None, name="."):
    base = "ACGT"[DNA.contigs[chrom][start]]
    alt = alt or "CGTA"["ACGT".index(base)]
    return chrom, str(start + 1), name, ref or base, alt


def read_tsv(path):
    with path.open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.fixture
def vcf(tmp_path):
    rows = [row("chr1", 500, name="rs1"), row("chrX", 3), row("chr1", 4, alt="<DEL>"),
            row("chr1", 600, alt="A,ACGT" if DNA.contigs["chr1"][600] else "C,ACGT"),
            ("chr9", "5", "rs9", "A", "C")]  # fmt: skip
    return vcf_of(tmp_path / "some.vcf", *rows)


def test_a_table_of_effects(vcf, fasta, tmp_path):
    model = predictor()
    out = tmp_path / "deep" / "effects.tsv"
    found = score_variants(model, vcf, fasta, out, SCORING, ["cage"])
    assert (found.scored, dict(found.skipped)) == (
        4, {"symbolic allele": 1, "contig not in the FASTA": 1},
    )  # fmt: skip
    rows = read_tsv(out)
    assert [(r["chrom"], r["pos"], r["track"]) for r in rows] == [
        (chrom, pos, track)
        for chrom, pos in [("chr1", "501"), ("chrX", "4"), ("chr1", "601"), ("chr1", "601")]
        for track in ("0", "2")
    ]
    assert rows[0]["id"] == "rs1" and rows[0]["identifier"] == "finch_cage_0"
    scorer = EffectPredictor(model, DNA, SCORING)
    for r in rows:
        variant = Variant(0, r["chrom"], int(r["pos"]) - 1, ".", r["ref"], r["alt"])
        (effect,), track = scorer.score([variant]), int(r["track"])
        assert float(r["log2_ratio"]) == pytest.approx(effect.mean["log2_ratio"][track], rel=1e-3)
        assert float(r["ref_sum"]) == pytest.approx(effect.ref[track], rel=1e-5)
        assert float(r["alt_sum"]) == pytest.approx(effect.alt[track], rel=1e-5)
        assert float(r["d2"]) > 0 and float(r["d2_sd"]) >= 0
        assert r["averages"] == ("4" if r["alt"] == "ACGT" else "2")
    skipped = read_tsv(out.with_suffix(".skipped.tsv"))
    assert [(r["line"], r["reason"]) for r in skipped] == [
        ("5", "symbolic allele"), ("7", "contig not in the FASTA"),
    ]  # fmt: skip
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["scored"] == 4 and record["unit"].startswith("means: ")
    assert sorted(p.name for p in out.parent.iterdir()) == [
        "effects.json", "effects.skipped.tsv", "effects.tsv",
    ]  # fmt: skip


def test_distances_stand_beside_tracks_or_alone(vcf, fasta, tmp_path):
    model = predictor()
    beside = replace(SCORING, scores=("cosine", "log2_ratio"))
    score_variants(model, vcf, fasta, tmp_path / "beside.tsv", beside, ["cage"])
    alone = replace(SCORING, scores=("cosine",))
    score_variants(model, vcf, fasta, tmp_path / "alone.tsv", alone)
    rows, of_variants = read_tsv(tmp_path / "beside.tsv"), read_tsv(tmp_path / "alone.tsv")
    assert list(of_variants[0]) == [
        "chrom", "pos", "id", "ref", "alt", "species", "cosine", "cosine_sd", "averages",
    ]  # fmt: skip
    assert [r["cosine"] for r in rows] == [r["cosine"] for r in of_variants for _ in range(2)]
    assert len({r["cosine"] for r in of_variants}) == 4
    assert len({r["log2_ratio"] for r in rows}) == 8
    record = json.loads((tmp_path / "alone.json").read_text())
    assert record["layer"] == "pointwise" and record["tracks"] == 0
    assert record["scores"] == {"cosine": "1 - cosine of the angle between features"}


def test_tracks_that_no_score_looks_at_are_refused(vcf, fasta, tmp_path):
    alone = replace(SCORING, scores=("cosine", "dot"))
    with pytest.raises(UserError, match="--tracks cage: cosine, dot do not look at tracks"):
        score_variants(predictor(), vcf, fasta, tmp_path / "effects.tsv", alone, ["cage"])
    assert not (tmp_path / "effects.tsv").exists()


def test_distances_need_no_tracks(vcf, fasta, tmp_path):
    known = trained()
    extended = replace(known, model=add_species(known.model, "wren").eval())
    model = Predictor(extended, "wren", "cpu")
    alone = replace(SCORING, scores=("euclidean",))
    assert score_variants(model, vcf, fasta, tmp_path / "effects.tsv", alone).scored == 4
    assert {r["species"] for r in read_tsv(tmp_path / "effects.tsv")} == {"wren"}
    with pytest.raises(UserError, match=r"species 'wren' of .* has no tracks"):
        score_variants(model, vcf, fasta, tmp_path / "no.tsv", SCORING)


def test_parquet_holds_the_same(vcf, fasta, tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(tables, "ROWS_AT_ONCE", 3)
    model = predictor()
    score_variants(model, vcf, fasta, tmp_path / "effects.tsv", SCORING)
    score_variants(model, vcf, fasta, tmp_path / "other.parquet", SCORING)
    text = read_tsv(tmp_path / "effects.tsv")
    table = parquet.read_table(tmp_path / "other.parquet").to_pylist()
    assert len(table) == len(text) == 4 * len(model.tracks)
    for a, b in zip(table, text, strict=True):
        assert list(a) == list(b)
        assert (a["chrom"], a["pos"], a["assay"]) == (b["chrom"], int(b["pos"]), b["assay"])
        assert a["log2_ratio"] == pytest.approx(float(b["log2_ratio"]), rel=1e-4, abs=1e-9)


def test_another_genome_s_variants_are_refused(fasta, tmp_path):
    wrong = "CGTA"["ACGT".index("ACGT"[DNA.contigs["chr1"][9]])]
    vcf = vcf_of(
        tmp_path / "a.vcf",
        row("chr1", 8),
        row("chr1", 9, ref=wrong, alt="ACGT"[DNA.contigs["chr1"][9]]),
    )
    out = tmp_path / "out" / "effects.tsv"
    with pytest.raises(
        UserError, match=r"a.vcf:4: chr1:10 .* there; REF is what the genome has in 1 of 2"
    ):
        score_variants(predictor(), vcf, fasta, out, SCORING)
    assert not out.parent.exists()


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("effects.csv", "expected a name that ends with .parquet or .tsv"),
        ("there.tsv", "already exists"),
    ],
)
def test_tables_that_cannot_be_made(vcf, fasta, tmp_path, out, message):
    (tmp_path / "there.tsv").touch()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=message):
        score_variants(predictor(), vcf, fasta, tmp_path / out, SCORING)
    assert sorted(tmp_path.iterdir()) == before


def test_a_failure_leaves_nothing(vcf, fasta, tmp_path, monkeypatch):
    monkeypatch.setattr(effect_tables.EffectPredictor, "score_batches", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        score_variants(predictor(), vcf, fasta, tmp_path / "out" / "effects.tsv", SCORING)
    assert not (tmp_path / "out").exists()


def test_a_file_with_nothing_to_score_is_refused(fasta, tmp_path):
    vcf = vcf_of(tmp_path / "a.vcf", ("chr9", "5", "rs9", "A", "C"))
    with pytest.raises(UserError, match=r"no variant to score \(1: contig not in the FASTA\)"):
        score_variants(predictor(), vcf, fasta, tmp_path / "effects.tsv", SCORING)

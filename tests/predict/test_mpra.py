import csv
import gzip
import json

import numpy as np
import pytest
from small_models import genome, predictor

from spacescale.errors import UserError
from spacescale.predict.mpra_elements import COLUMNS, read_mpra
from spacescale.predict.mpra_scores import Request, pearson, ranks, score_mpra
from spacescale.predict.regions import bases
from spacescale.predict.variant_effects import EffectPredictor, Scoring
from spacescale.predict.vcf import Variant

DNA = genome()
SCORING = Scoring(scores=("log2_ratio", "d2", "cosine"), unit="means", shifts=(0,))
START, LENGTH = 200, 12


def rows_of(element, chrom="1", start=START, release="GRCh38", seed=0):
    """Every SNV and deletion of a stretch of small_models' chr1."""
    rng = np.random.default_rng(seed)
    rows = []
    for at in range(start, start + LENGTH):
        ref = "ACGT"[DNA.contigs["chr1"][at]]
        for alt in [base for base in "ACGT-" if base != ref]:
            rows.append([chrom, at + 1, ref, alt, 20, f"{rng.normal():.6f}", 0.5, element, release])
    return rows


def write(path, rows):
    text = "\n".join("\t".join(map(str, row)) for row in [COLUMNS, *rows]) + "\n"
    path.write_bytes(gzip.compress(text.encode()))
    return path


@pytest.fixture
def table(tmp_path):
    rows = rows_of("GENE.2") + rows_of("GENE", seed=1) + rows_of("OTHER", start=400, seed=2)
    rows[3][4] = 9
    rows.insert(5, ["NA"] * 4 + [55, 0.1, 0.5, "GENE", "GRCh38"])
    rows = [row for row in rows if (row[7], row[1]) != ("OTHER", 405)]  # a base that no row tells
    return write(tmp_path / "elements.tsv.gz", rows + rows_of("GENE", start=300, release="GRCh37"))


def read_tsv(path):
    with path.open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_elements_are_pieced_together(table):
    found = read_mpra(table, "GRCh38")
    assert list(found.elements) == ["GENE.2", "GENE", "OTHER"]
    assert [e.like for e in found.elements.values()] == ["GENE", "", ""]
    gene, other = found.elements["GENE"], found.elements["OTHER"]
    assert (gene.start, gene.unknown, other.unknown) == (START, 0, 1)
    np.testing.assert_array_equal(gene.codes, DNA.contigs["chr1"][START : START + LENGTH])
    assert [(one.line, one.reason) for one in found.left_out] == [
        (5, "fewer than 10 barcodes"), (7, "NA"),
    ]  # fmt: skip
    assert len(found.measured) == 3 * 4 * LENGTH - 1 - 4
    assert read_mpra(table, "GRCh37").elements["GENE"].start == 300
    assert set(read_mpra(table, "GRCh38", ["G*"]).elements) == {"GENE.2", "GENE"}


def test_effects_are_held_against_those_measured(table, tmp_path):
    model, out = predictor(), tmp_path / "mpra.tsv"
    said = score_mpra(model, Request(table, tracks=["cage"]), SCORING, out)
    rows = read_tsv(out)
    assert len(rows) == 2 * (3 * 4 * LENGTH - 1 - 4)
    deletion = next(r for r in rows if r["element"] == "OTHER" and r["alt"] == "-")
    at = int(deletion["pos"]) - 1
    alone = bases(DNA.contigs["chr1"], 400, LENGTH)
    alone[4] = 4
    scorer = EffectPredictor(model, type(DNA)(table, {"x": alone}, 0), SCORING)
    (effect,) = scorer.score([Variant(0, "x", at - 400, ".", deletion["ref"], "")])
    assert float(deletion["alt_sum"]) == pytest.approx(effect.alt[int(deletion["track"])], rel=1e-5)
    assert deletion["averages"] == "4"

    found = {
        (r["element"], r["score"], r["kind"]): r for r in read_tsv(tmp_path / "mpra.elements.tsv")
    }
    assert len(found) == 3 * 3 * 2
    assert {r["same_bases_as"] for (name, *_), r in found.items() if name == "GENE.2"} == {"GENE"}
    for score in ("log2_ratio", "d2", "cosine"):
        of_gene = [r for r in rows if r["element"] == "GENE" and r["alt"] != "-"]
        measured = np.array([float(r["coefficient"]) for r in of_gene[::2]])
        predicted = np.array([float(r[score]) for r in of_gene]).reshape(-1, 2).mean(1)
        measured = measured if score == "log2_ratio" else np.abs(measured)
        row = found["GENE", score, "SNV"]
        assert int(row["variants"]) == len(measured) == 3 * LENGTH
        assert float(row["pearson"]) == pytest.approx(
            np.corrcoef(measured, predicted)[0, 1], abs=2e-3
        )
    assert read_tsv(tmp_path / "mpra.skipped.tsv") == [
        {"line": "5", "element": "GENE.2", "reason": "fewer than 10 barcodes"},
        {"line": "7", "element": "GENE", "reason": "NA"},
    ]
    record = json.loads((tmp_path / "mpra.json").read_text())
    assert record["context"] == "the element alone, N around it"
    assert record["skipped"] == {"fewer than 10 barcodes": 1, "NA": 1}
    for text in ("same bases as GENE", "1 bp that no row tells are N", "mean over 2 elements",
                 "N around it; left out: 1 rows: fewer than 10 barcodes; 1 rows: NA"):  # fmt: skip
        assert text in said


def test_elements_within_their_genome(table, fasta, tmp_path):
    alone, within = tmp_path / "alone.tsv", tmp_path / "within.tsv"
    for out, where in ((alone, None), (within, fasta)):
        request = Request(table, elements=["GENE"], fasta=where, tracks=["cage"])
        score_mpra(predictor(), request, SCORING, out)
    a, b = read_tsv(alone), read_tsv(within)
    assert [r["pos"] for r in a] == [r["pos"] for r in b] and a != b
    (effect,) = EffectPredictor(predictor(), DNA, SCORING).score(
        [Variant(0, "chr1", START, ".", b[0]["ref"], b[0]["alt"])]
    )
    assert float(b[0]["log2_ratio"]) == pytest.approx(effect.mean["log2_ratio"][0], rel=1e-3)


def test_another_assembly_s_elements_are_refused(fasta, tmp_path):
    table = write(tmp_path / "e.tsv.gz", [[*row[:1], row[1] + 1, *row[2:]] for row in rows_of("E")])
    with pytest.raises(UserError, match=r"e.tsv.gz:\d+: chr1:\d+ .*genome.fa has [ACGT] there"):
        score_mpra(predictor(), Request(table, fasta=fasta), SCORING, tmp_path / "out" / "a.tsv")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[0].__setitem__(3, rows[0][2]), r"e.gz:2: .*expected one base"),
        (lambda rows: rows[0].__setitem__(1, "x"), r"e.gz:2: Pos, Barcodes.*'x'"),
        (lambda rows: rows[1].pop(), r"e.gz:3: 8 cells; the header has 9"),
        (lambda rows: rows[2].__setitem__(2, {"A": "C"}.get(rows[2][2], "A")),
         r"e.gz:4: .*"),
        (lambda rows: rows[0].__setitem__(0, "2"), r"E lies on 1, 2; expected one"),
        (lambda rows: rows.clear(), "a table without rows"),
    ],
)  # fmt: skip
def test_tables_with_faults(tmp_path, change, message):
    rows = rows_of("E")
    change(rows)
    with pytest.raises(UserError, match=message):
        read_mpra(write(tmp_path / "e.gz", rows), "GRCh38")


def test_names_that_are_not_there(table):
    with pytest.raises(UserError, match="no release 'hg38'"):
        read_mpra(table, "hg38")
    with pytest.raises(UserError, match=r"no element 'GENES'; did you mean GENE"):
        read_mpra(table, "GRCh38", ["GENES"])
    table.write_text("Chrom\tPos\nx\t1\n")
    with pytest.raises(UserError, match=r":1: no column Ref, Alt"):
        read_mpra(table, "GRCh38")


def test_ranks_of_equal_values_are_their_mean():
    assert ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [3.5, 1, 3.5, 2]
    x = np.arange(5.0)
    assert pearson(ranks(x), ranks(np.exp(x))) == pytest.approx(1)
    assert np.isnan(pearson(x, np.ones(5))) and np.isnan(pearson(x[:2], x[:2]))

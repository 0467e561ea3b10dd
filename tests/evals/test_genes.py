"""Genes: exons put together, each base once, the right strand, levels and shapes."""

import gzip

import numpy as np
import pytest
from small_datasets import BIN_SIZE, BINS, write_small_dataset

from spacescale.dataset.reader import SpeciesData
from spacescale.errors import UserError
from spacescale.evals.genes import Gene, GeneScores, read_genes

LINE = 'chrI\tx\t{}\t{}\t{}\t.\t{}\t.\tgene_id "{}"; transcript_id "{}";\n'


def test_exons_of_all_transcripts_are_one_gene(tmp_path):
    text = "# a comment\n" + "".join(
        [
            LINE.format("exon", 101, 200, "+", "a", "a1"),
            LINE.format("CDS", 1, 50, "+", "a", "a1"),
            LINE.format("exon", 401, 500, "+", "a", "a1"),
            LINE.format("exon", 151, 300, "+", "a", "a2"),
            LINE.format("exon", 7, 7, "-", "b", "b1"),
        ]
    )
    expected = [
        Gene("a", "chrI", "+", ((100, 300), (400, 500))),
        Gene("b", "chrI", "-", ((6, 7),)),
    ]
    (tmp_path / "genes.gtf").write_text(text)
    assert read_genes(tmp_path / "genes.gtf") == expected
    (tmp_path / "genes.gtf.gz").write_bytes(gzip.compress(text.encode()))
    assert read_genes(tmp_path / "genes.gtf.gz") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chrI\t5\t9\n", r":1: no line of a GTF"),
        (LINE.format("exon", 0, 9, "+", "a", "b"), r":1: no line of a GTF"),
        (LINE.format("gene", 1, 9, "+", "a", "b"), r"no exon with a gene_id"),
    ],
)
def test_what_is_no_gtf_is_refused(tmp_path, text, message):
    (tmp_path / "genes.gtf").write_text(text)
    with pytest.raises(UserError, match=message):
        read_genes(tmp_path / "genes.gtf")


@pytest.fixture
def data(tmp_path):
    data = SpeciesData.open(write_small_dataset(tmp_path / "finch"))
    data.__dict__["strand_pair"] = np.array([1, 0, 2])
    return data


def made_up_genes():
    """On chrI: two exons over two windows each, strands in turn; one goes past the last window."""
    starts = range(10, 2300, 230)
    genes = [
        Gene(f"g{i}", "chrI", "+-"[i % 2], ((start, start + 70), (start + 90, start + 180)))
        for i, start in enumerate(starts)
    ]
    return [*genes, Gene("out", "chrI", "+", ((2900, 2990),)), Gene("far", "chrX", "+", ((0, 9),))]


def per_base(windows, data, rows, track):
    """Values of a track, spread over the bases of chrI."""
    found = np.full(3000, np.nan)
    for row in rows:
        start = int(data.windows.start[row])
        found[start : start + BINS * BIN_SIZE] = np.repeat(windows[row][:, track], BIN_SIZE)
    return found


def test_levels_are_sums_over_exons_of_the_own_strand(data):
    rows, genes = data.rows("train"), made_up_genes()
    random = np.random.default_rng(0)
    observed = {row: random.gamma(1, 2, (BINS, 3)).astype(np.float32) for row in rows.tolist()}
    for gene in genes[:-1]:  # the first of the pair is of the reverse strand
        for row in rows.tolist():
            bins = data.windows.start[row] + BIN_SIZE * np.arange(BINS)
            inside = (bins >= gene.exons[0][0] - BIN_SIZE) & (bins < gene.exons[-1][1])
            observed[row][inside, 1 if gene.strand == "+" else 0] += 20
    predicted = {row: y + random.gamma(1, 3, y.shape) for row, y in observed.items()}
    scores = GeneScores(data, genes, rows)
    for row in random.permutation(rows).tolist():
        scores.update(row, predicted[row], observed[row])
    found = scores.result()
    assert found.genes == 10
    for track, strands in ((0, "-"), (1, "+"), (2, "+-")):
        levels = [
            [
                np.log1p(sum(per_base(part, data, rows, track)[a:b].sum() for a, b in gene.exons))
                for gene in genes[:10]
                if gene.strand in strands
            ]
            for part in (predicted, observed)
        ]
        assert found.level[track] == pytest.approx(np.corrcoef(*levels)[0, 1], abs=1e-5)
    assert (found.within > 0.2).all()


def test_shapes_within_genes_know_nothing_of_levels(data):
    rows, genes = data.rows("train"), made_up_genes()
    scores = GeneScores(data, genes, rows)
    random = np.random.default_rng(0)
    for row in rows.tolist():
        x = random.gamma(1, 2, (BINS, 3))
        scores.update(row, x, x * 1.0)
    np.testing.assert_allclose(scores.result().within, 1)


def test_genes_elsewhere_are_refused(data):
    with pytest.raises(UserError, match=r"the genes lie on chrX, the windows on chrI"):
        GeneScores(data, made_up_genes()[-1:], data.rows("train"))

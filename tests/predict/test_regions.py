import numpy as np
import pytest
from small_models import BIN, LENGTHS, SPAN, WINDOW, genome, predictor

from spacescale.errors import UserError
from spacescale.predict.places import Place
from spacescale.predict.regions import Averaging, RegionPredictions, bases, read_places

WHOLE = [Place(name, 0, length) for name, length in LENGTHS.items()]


def by_base(stretches) -> dict[tuple[str, int], np.ndarray]:
    """(contig, start of bin) → (T,); no bin comes twice."""
    found = {}
    for stretch in stretches:
        for i, values in enumerate(stretch.values):
            place = stretch.chrom, stretch.start + BIN * i
            assert place not in found
            found[place] = values
    return found


def predictions(places, **averaging):
    return RegionPredictions(predictor(), genome(), places, Averaging(**averaging))


def test_a_base_has_one_value_in_any_tiling():
    whole = by_base(predictions(WHOLE))
    assert len(whole) == sum(-(-length // BIN) for length in LENGTHS.values())
    for places in (
        [Place("chr1", 3, 4)],
        [Place("chr1", 77, 411), Place("chrX", 79, 81)],
        [Place("chr1", 0, 9), Place("chr1", 10, 20), Place("chr2", 0, 57)],  # share a bin
    ):
        found = by_base(predictions(places))
        asked = {(p.chrom, at // BIN * BIN) for p in places for at in range(p.start, p.end)}
        assert set(found) == asked
        for place, values in found.items():
            np.testing.assert_allclose(values, whole[place], rtol=1e-4, atol=1e-6)


def test_values_are_those_of_the_window_around():
    model, dna = predictor(), genome()
    start = 3 * SPAN
    window = dna.contigs["chr1"][start - (WINDOW - SPAN) // 2 :][:WINDOW]
    (stretch,) = RegionPredictions(model, dna, [Place("chr1", start, start + SPAN)])
    assert (stretch.chrom, stretch.start) == ("chr1", start)
    np.testing.assert_allclose(stretch.values, model.predict(window), rtol=1e-5)


def test_beyond_the_ends_is_n():
    contig = np.array([0, 1, 2, 3], np.uint8)
    assert bases(contig, -2, 8).tolist() == [4, 4, 0, 1, 2, 3, 4, 4]
    assert bases(contig, 9, 2).tolist() == bases(contig, -9, 2).tolist() == [4, 4]
    assert bases(contig, 1, 2).tolist() == [1, 2]


def test_strands_and_shifts_are_averaged():
    places, model, dna = [Place("chr1", 80, 160)], predictor(), genome()
    (found,) = predictions(places, both_strands=True, shifts=(-1, 2))
    windows = [bases(dna.contigs["chr1"], 80 - 24 + shift, WINDOW) for shift in (-1, 2)]
    expected = model.predict(np.stack(windows), strands="both").mean(0)
    np.testing.assert_allclose(found.values, expected, rtol=1e-5)


def test_places_stand_as_they_are_given(tmp_path):
    bed = tmp_path / "some.bed"
    bed.write_text("# peaks\nchrX\t10\t20\nchr1\t0\t5\nchr1\t5\t9\tname\nchr1\t0\t5\n")
    found = read_places(["chr1:8-100", str(bed), "chr2"], genome())
    assert found == [
        Place("chr1", 8, 100), Place("chrX", 10, 20), Place("chr1", 0, 5), Place("chr1", 5, 9),
        Place("chr1", 0, 5), Place("chr2", 0, 57),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# nothing\n", "some.bed: no region in it"),
        ("chr1\t5\t5\n", "some.bed:1: chr1:5-5: expected a start before the end"),
        ("chr1\t5\n", "some.bed:1: expected CONTIG START END"),
        ("chr1\t-5\t9\n", "some.bed:1: expected CONTIG START END"),
    ],
)
def test_beds_without_regions_are_refused(tmp_path, text, message):
    (tmp_path / "some.bed").write_text(text)
    with pytest.raises(UserError, match=message):
        read_places([str(tmp_path / "some.bed")], genome())


@pytest.mark.parametrize(
    ("shifts", "message"),
    [((), "different"), ((1, 1), "different"), ((0, -8), "less than a bin, 8")],
)
def test_shifts_stay_within_a_bin(shifts, message):
    with pytest.raises(UserError, match=message):
        predictions(WHOLE, shifts=shifts)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("chr1:900-1,001", r"chr1:900-1,001: genome.fa has 1,000 bp of chr1"),
        ("chr3:0-5", "genome.fa: .*chr3"),
        ("chr1:5-5", "--regions chr1:5-5: expected CONTIG:START-END"),
        ("nowhere.bed", "--regions nowhere.bed: expected CONTIG:START-END, a BED file that"),
        ("chrx", r"--regions chrx: expected .* contig of genome.fa; did you mean chrX"),
    ],
)
def test_places_that_are_not_there_are_refused(word, message):
    with pytest.raises(UserError, match=message):
        read_places([word], genome())

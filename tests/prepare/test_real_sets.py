"""Four real species from every form they come in: the same windows must hold the same numbers.

Human and mouse: TFRecords (float16, 32-bp bins), HDF5 (float32, 128-bp bins: means of four of the
former) and, for some tracks, a FASTA and BigWigs with one contig a window. Yeast: 2bit and FASTA.
Fly: BigWigs over pieces of two chromosomes.
"""

import re
from pathlib import Path

import numpy as np
import pytest

from spacescale.dataset.genome_windows import GenomeWindows, WindowChoice
from spacescale.dataset.reader import SpeciesData
from spacescale.dataset.species_genome import SpeciesGenome
from spacescale.prepare.genome_dataset import make_genome
from spacescale.prepare.importers.basenji import BasenjiSet
from spacescale.prepare.importers.import_dataset import ImportOptions, import_dataset
from spacescale.prepare.importers.space_hdf5 import SpaceHdf5
from spacescale.prepare.options import DatasetOptions, GenomeOptions
from spacescale.prepare.stages import make_dataset
from spacescale.splits.options import SplitOptions
from spacescale.verify.check import verify_species

REPO = Path(__file__).parents[2]
REAL = REPO.parent / "shared/data"
EXAMPLES = REPO / "docs/examples"
FOLDERS = {"human": "human_hg38", "mouse": "mouse_mm10"}
WINDOWS = {"human": (45, 10, 10), "mouse": (28, 13, 13)}
NUM_TRACKS = {"human": 74, "mouse": 32}
NUM_STRANDED = {"human": 54, "mouse": 30}

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not REAL.is_dir(), reason=f"the real data sets are not in {REAL}"),
]


@pytest.fixture(scope="module", params=["human", "mouse"])
def species(request):
    return request.param


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """A folder for the datasets of this module, each made once, by name."""
    folder = tmp_path_factory.mktemp("sets")
    made: dict[tuple[str, str], SpeciesData] = {}

    def dataset(form: str, name: str) -> SpeciesData:
        if (form, name) not in made:
            made[form, name] = FORMS[form](name, folder / form)
        return made[form, name]

    return dataset


def from_tfrecords(species: str, out: Path) -> SpeciesData:
    folder = REAL / FOLDERS[species] / "tfrecords_ds"
    return imported(species, out, BasenjiSet(folder))


def from_hdf5(species: str, out: Path) -> SpeciesData:
    folder = REAL / FOLDERS[species] / "space_h5"
    files = {split: folder / f"{species}_{split}.h5" for split in ("train", "valid", "test")}
    return imported(species, out, SpaceHdf5(files, 128))


def imported(species: str, out: Path, source) -> SpeciesData:
    tables = REAL / FOLDERS[species] / "tfrecords_ds"
    options = ImportOptions(
        species=species,
        targets=tables / "targets.txt",
        windows=tables / "sequences.bed",
        out=out,
    )
    return SpeciesData.open(import_dataset(options, source))


def from_bigwigs(species: str, out: Path) -> SpeciesData:
    """Windows as contigs; the example's table without clipping."""
    folder = REAL / FOLDERS[species] / "windows"
    rows = [
        line.split("\t") for line in (EXAMPLES / species / "targets.txt").read_text().splitlines()
    ]
    file, clip = rows[0].index("file"), rows[0].index("clip")
    for row in rows[1:]:
        row[file], row[clip] = str(folder / row[file]), ""
    out.mkdir(parents=True, exist_ok=True)
    table = out / f"{species}.txt"
    table.write_text("\n".join("\t".join(row) for row in rows))
    options = DatasetOptions(
        species=species,
        fasta=folder / "windows.fa.gz",
        targets=table,
        splits=SplitOptions(contigs=EXAMPLES / species / "contigs.bed"),
        out=out,
        seq_length=131_072,
        bin_size=32,
        target_length=2048,
    )
    return SpeciesData.open(make_dataset(options))


FORMS = {"tfrecords": from_tfrecords, "hdf5": from_hdf5, "bigwigs": from_bigwigs}


def place(data: SpeciesData, row: int) -> tuple[str, int, str]:
    windows = data.windows
    return str(windows.chrom[row]), int(windows.start[row]), str(windows.split[row])


def test_tfrecord_form_is_whole(sets, species):
    data = sets("tfrecords", species)
    assert tuple(data.manifest.num_windows.values()) == WINDOWS[species]
    assert len(data.tracks) == NUM_TRACKS[species]
    stranded = np.count_nonzero(data.strand_pair != np.arange(len(data.tracks)))
    assert stranded == NUM_STRANDED[species]
    assert not data.manifest.report.warnings
    data.verify()


def test_hdf5_form_is_the_tfrecord_form_in_wider_bins(sets, species):
    narrow, wide = sets("tfrecords", species), sets("hdf5", species)
    assert (narrow.path / "windows.bed").read_text() == (wide.path / "windows.bed").read_text()
    assert (narrow.target_length, wide.target_length) == (2048, 512)
    for row in range(len(narrow)):
        np.testing.assert_array_equal(narrow.sequence(row), wide.sequence(row))
        bins = narrow.targets(row).astype(np.float32).reshape(512, 4, -1)
        # A mean of four in float32, and its one rounding to float16.
        np.testing.assert_array_equal(bins.mean(axis=1).astype(np.float16), wide.targets(row))


def test_bigwig_form_equals_the_tfrecord_form(sets, species):
    data, whole = sets("bigwigs", species), sets("tfrecords", species)
    columns = [int(re.match(r"t(\d+)_", track.file)[1]) for track in data.tracks]
    names = [whole.tracks[column].identifier for column in columns]
    assert names == [track.identifier for track in data.tracks]
    row_of = {place(whole, row): row for row in range(len(whole))}
    assert len(data) == len(whole)
    for row in range(len(data)):
        contig, start, split = place(data, row)
        chrom, first, _, split_in_name = re.match(r"(\w+)_(\d+)_(\d+)_(\w+)$", contig).groups()
        assert split == split_in_name
        twin = row_of[chrom, int(first) + start, split]
        np.testing.assert_array_equal(data.targets(row), whole.targets(twin)[:, columns])
        np.testing.assert_array_equal(data.sequence(row), whole.sequence(twin))


def test_yeast_is_the_same_from_2bit_and_fasta(tmp_path):
    folder = REAL / "yeast_sacCer3"
    table = (EXAMPLES / "yeast/targets.txt").read_text().replace("tracks/", f"{folder}/tracks/")
    (tmp_path / "targets.txt").write_text(table)
    data = [
        SpeciesData.open(
            make_dataset(
                DatasetOptions(
                    species="yeast",
                    fasta=folder / f"genome/{name}",
                    targets=tmp_path / "targets.txt",
                    splits=SplitOptions(valid_chroms=("II",), test_chroms=("XVI",)),
                    aliases="auto",
                    out=tmp_path / name,
                )
            )
        )
        for name in ("sacCer3.2bit", "sacCer3.fa.gz")
    ]
    assert data[0].manifest.files == data[1].manifest.files
    assert data[0].manifest.aliases == {"II": "chrII", "IV": "chrIV", "XVI": "chrXVI"}


def test_all_of_yeast_without_tracks(tmp_path):
    """Its 17 contigs, of which three carry windows elsewhere; chrXVI is held out of all windows."""
    made = []
    for name in ("sacCer3.2bit", "sacCer3.fa.gz"):
        options = GenomeOptions(
            species="yeast",
            fasta=REAL / "yeast_sacCer3/genome" / name,
            splits=SplitOptions(valid_chroms=("II",), test_chroms=("XVI",)),
            aliases="auto",
            out=tmp_path / name,
        )
        made.append(SpeciesGenome.open(make_genome(options)))
    # The files hold the contigs in another order each.
    assert made[0].manifest.split == made[1].manifest.split
    for contig in made[0].manifest.contigs:
        place = contig.name, 0, contig.length
        np.testing.assert_array_equal(made[0].codes(*place), made[1].codes(*place))
    assert len(made[0].manifest.contigs) == 17 and not made[0].has_repeats
    bases = {"train": 10_395_855, "valid": 813_184, "test": 948_066}
    assert made[0].bases_of_splits() == bases
    windows = GenomeWindows(made[0], "train", WindowChoice(longest=2300, shortest=70))
    contigs = {windows[n].chrom for n in range(1000)}
    assert not contigs & {"chrII", "chrXVI"} and len(contigs) == 15
    assert verify_species(made[0].path) == []


def test_fly_pieces_agree_with_their_bigwigs(tmp_path):
    import pyBigWig

    folder = REAL / "drosophila_dm6"
    table = (EXAMPLES / "fly/targets.txt").read_text().replace("tracks/", f"{folder}/tracks/")
    (tmp_path / "targets.txt").write_text(table)
    options = DatasetOptions(
        species="fly",
        fasta=folder / "genome/dm6.small.fa.gz",
        targets=tmp_path / "targets.txt",
        splits=SplitOptions(contigs=EXAMPLES / "fly/contigs.bed"),
        out=tmp_path,
    )
    data = SpeciesData.open(make_dataset(options))
    assert len(data.tracks) == 9
    chrom, start, _ = place(data, len(data) // 2)
    for column, track in enumerate(data.tracks):
        with pyBigWig.open(str(folder / "tracks" / track.file)) as file:
            bases = np.nan_to_num(file.values(chrom, start, start + 112 * 128, numpy=True))
        expected = np.clip(bases.reshape(112, 128).mean(axis=1), 0, track.clip)
        found = data.targets(len(data) // 2)[:, column]
        np.testing.assert_allclose(found, expected, rtol=2**-11, atol=2**-24)

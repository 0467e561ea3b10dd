"""A small genome with targets, written as the training sets of other tools.

TFRecords are written here from their specification, apart from the code under test.
"""

import gzip
import json
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

SEQ_LENGTH, BIN_SIZE, TARGET_LENGTH, NUM_TRACKS = 64, 4, 8, 3
SPAN = BIN_SIZE * TARGET_LENGTH
MARGIN = (SEQ_LENGTH - SPAN) // 2
LENGTHS = {"chr1": 400, "chr2": 300, "chr10": 200}
TABLE = (
    "\tidentifier\tfile\tclip\tclip_soft\tscale\tsum_stat\tstrand_pair\tdescription\n"
    "0\tup\t/far/away/up.w5\t384\t64\t1.0\tsum_sqrt\t1\tCAGE:up\n"
    "1\tdown\t/far/away/down.w5\t384\t64\t1.0\tsum_sqrt\t0\tCAGE:down\n"
    "2\topen\t/far/away/open.w5\t32\t\t2.0\tmean\t2\tDNASE:open\n"
)
# (chrom, start of the target, split), neither in genome order nor split by split.
PLACES = [
    ("chr10", 60, "train"), ("chr1", 100, "train"), ("chr2", 40, "valid"), ("chr1", 132, "train"),
    ("chr2", 200, "test"), ("chr1", 4, "train"), ("chr1", 260, "valid"), ("chr1", 356, "train"),
]  # fmt: skip


@dataclass
class SmallSet:
    """Codes by contig; windows (chrom, start, split); targets float16 [windows, bins, tracks]."""

    genome: dict[str, np.ndarray]
    places: list[tuple[str, int, str]] = field(default_factory=lambda: list(PLACES))
    targets: np.ndarray = field(default_factory=lambda: np.empty(0))

    def codes(self, number: int) -> np.ndarray:
        """Return the bases of a window, uint8 [SEQ_LENGTH], N past the ends."""
        chrom, start, _ = self.places[number]
        positions = np.arange(start - MARGIN, start - MARGIN + SEQ_LENGTH)
        contig = self.genome[chrom]
        inside = (positions >= 0) & (positions < contig.size)
        return np.where(inside, contig[np.clip(positions, 0, contig.size - 1)], 4).astype(np.uint8)

    def numbers_of(self, split: str) -> list[int]:
        return [n for n, place in enumerate(self.places) if place[2] == split]

    def one_hot(self, number: int) -> np.ndarray:
        return np.eye(5, 4, dtype=np.uint8)[self.codes(number)]


def small_set() -> SmallSet:
    rng = np.random.default_rng(7)
    genome = {name: rng.integers(0, 4, length).astype(np.uint8) for name, length in LENGTHS.items()}
    genome["chr1"][110:114] = 4
    targets = rng.gamma(1, 3, (len(PLACES), TARGET_LENGTH, NUM_TRACKS)).astype(np.float16)
    return SmallSet(genome, targets=targets)


def write_fasta(path: Path, genome: dict[str, np.ndarray]) -> Path:
    with path.open("w") as file:
        for name, codes in genome.items():
            print(f">{name}", "".join("ACGTN"[code] for code in codes), sep="\n", file=file)
    return path


def write_tables(folder: Path, small: SmallSet, widen: int = 0) -> None:
    """Write sequences.bed, its intervals `widen` bp longer than a target, and targets.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    half = widen // 2
    (folder / "sequences.bed").write_text(
        "".join(
            f"{chrom}\t{start - half}\t{start + SPAN + half}\t{split}\n"
            for chrom, start, split in small.places
        )
    )
    (folder / "targets.txt").write_text(TABLE)


def write_basenji(
    folder: Path,
    small: SmallSet,
    bases: str = "index",
    targets: str = "float16",
    compression: str = "zlib",
    per_shard: int = 2,
) -> Path:
    """Write the set as Basenji does; a split that fills its shards gets an empty one at its end."""
    write_tables(folder, small)
    (folder / "tfrecords").mkdir()
    splits = list(dict.fromkeys(place[2] for place in small.places))
    statistics = {
        "num_targets": NUM_TRACKS,
        "seq_length": SEQ_LENGTH,
        "seq_1hot": True,
        "pool_width": BIN_SIZE,
        "crop_bp": MARGIN,
        "target_length": TARGET_LENGTH,
    }
    for split in splits:
        numbers = small.numbers_of(split)
        statistics[f"{split}_seqs"] = len(numbers)
        for shard, start in enumerate(range(0, len(numbers) + 1, per_shard)):
            records = [
                example(small, number, bases, targets)
                for number in numbers[start : start + per_shard]
            ]
            write_tfrecord(folder / f"tfrecords/{split}-{shard}.tfr", records, compression)
    (folder / "statistics.json").write_text(json.dumps(statistics))
    return folder


def example(small: SmallSet, number: int, bases: str = "index", targets: str = "float16") -> bytes:
    """Return a serialised tf.train.Example, with a feature that nobody asked for."""
    values = small.targets[number]
    one_hot = small.one_hot(number)
    sequence = {
        "index": lambda: bytes_list(small.codes(number).tobytes()),
        "one_hot": lambda: bytes_list(small.one_hot(number).tobytes()),
        "float_list": lambda: float_list(small.one_hot(number).astype("<f4")),
        "uniform": lambda: float_list(
            np.where(small.codes(number)[:, None] == 4, 0.25, small.one_hot(number)).astype("<f4")
        ),
        "int64_index": lambda: int64_list(small.codes(number)),
        "int64_one_hot": lambda: int64_list(one_hot),
        "float_index": lambda: float_list(small.codes(number).astype("<f4")),
        "one_hot_float16": lambda: bytes_list(one_hot.astype("<f2").tobytes()),
        "one_hot_float32": lambda: bytes_list(one_hot.astype("<f4").tobytes()),
        "one_hot_float64": lambda: bytes_list(one_hot.astype("<f8").tobytes()),
    }[bases]()
    target = {
        "float16": lambda: bytes_list(values.tobytes()),
        "float32": lambda: bytes_list(values.astype("<f4").tobytes()),
        "float_list": lambda: float_list(values.astype("<f4")),
        "unpacked": lambda: unpacked_float_list(values.astype("<f4")),
        "float64": lambda: bytes_list(values.astype("<f8").tobytes()),
        "int64_list": lambda: int64_list(values),
        "int64_unpacked": lambda: unpacked_int64_list(values),
        "as they are": lambda: bytes_list(values.tobytes()),
    }[targets]()
    features = {"sequence": sequence, "umap": bytes_list(b"\1" * 8), "target": target}
    entries = b"".join(
        delimited(1, delimited(1, name.encode()) + delimited(2, feature))
        for name, feature in features.items()
    )
    return delimited(1, entries)


def bytes_list(data: bytes) -> bytes:
    return delimited(1, delimited(1, data))


def float_list(values: np.ndarray) -> bytes:
    return delimited(2, delimited(1, values.tobytes()))


def unpacked_float_list(values: np.ndarray) -> bytes:
    return delimited(2, b"".join(b"\x0d" + value.tobytes() for value in values.reshape(-1)))


def int64_list(values: np.ndarray) -> bytes:
    numbers = values.reshape(-1).astype(np.int64).tolist()
    return delimited(3, delimited(1, b"".join(varint(number % 2**64) for number in numbers)))


def unpacked_int64_list(values: np.ndarray) -> bytes:
    numbers = values.reshape(-1).astype(np.int64).tolist()
    return delimited(3, b"".join(b"\x08" + varint(number % 2**64) for number in numbers))


def delimited(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def write_tfrecord(path: Path, records: list[bytes], compression: str = "zlib") -> None:
    data = b"".join(frame(record) for record in records)
    compress = {"none": lambda data: data, "zlib": zlib.compress, "gzip": gzip.compress}
    path.write_bytes(compress[compression](data))


def frame(record: bytes) -> bytes:
    length = struct.pack("<Q", len(record))
    return length + masked(length) + record + masked(record)


def masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def crc32c(data: bytes) -> int:
    """CRC-32C bit by bit, as its polynomial says."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def write_hdf5(folder: Path, small: SmallSet, targets: np.ndarray | None = None) -> dict[str, Path]:
    """Write the set in SPACE's layout; return {split: file}."""
    write_tables(folder, small, widen=SEQ_LENGTH - SPAN - 8)
    values = small.targets.astype(np.float32) if targets is None else targets
    files = {}
    for split in dict.fromkeys(place[2] for place in small.places):
        numbers = small.numbers_of(split)
        files[split] = folder / f"tiny_{split}.h5"
        with h5py.File(files[split], "w") as file:
            one_hot = np.stack([small.one_hot(n) for n in numbers]).astype(bool)
            file.create_dataset("sequences", data=one_hot, compression="gzip")
            file.create_dataset("targets", data=values[numbers], compression="gzip", chunks=True)
    return files

"""Many small genomes without tracks: what making, opening, ordering and reading them takes.

    python benchmarks/genomes.py --genomes 20 --json results.json

Genomes of 12 Mb are simulated: a quarter each of 16, 200, 1,000 and 5,000 contigs of log-normal
lengths, 5 % of the bases in lower case, with runs of N. Each is made by `data_prep/genome.py` in a
process of its own, as a user would; a further process opens all of them, builds the order of their
windows and reads some. The order is also built alone, of as many species as `--species` says, of
unequal size. Seconds are those of a processor (all threads), which other work on the machine
disturbs least.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from spacescale.dataset.sampler import SampleOrder

REPO = Path(__file__).resolve().parents[1]
CONTIGS = (16, 200, 1000, 5000)
_LINE = 60


def main() -> None:
    """Simulate, make, open and read; print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--genomes", type=int, default=20)
    parser.add_argument("--bases", type=int, default=12_000_000, help="of each, default 12 million")
    parser.add_argument("--window", type=int, default=2300, help="bp, default %(default)s")
    parser.add_argument(
        "--species", type=int, nargs="+", default=[165, 1160], help="of orders, default 165 1160"
    )
    parser.add_argument("--folder", type=Path, help="where to write, default the temporary one")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)  # in a further process
    parser.add_argument("--order", type=int, help=argparse.SUPPRESS)  # the same
    args = parser.parse_args()
    if args.read:
        print(json.dumps(read_all(args.read, args.window)))
        return
    if args.order:
        print(json.dumps(build_order(args.order)))
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        found = measure(Path(folder), args.genomes, args.bases, args.window)
    for species in args.species:
        found |= further_process("--order", str(species))
    for name, value in found.items():
        print(f"{name:<44}{value:>12,.2f}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


def measure(folder: Path, count: int, bases: int, window: int) -> dict[str, float]:
    """Return the figures of `count` genomes."""
    found: dict[str, float] = {}
    seconds: dict[int, list[float]] = {contigs: [] for contigs in CONTIGS}
    for number in range(count):
        contigs = CONTIGS[number % len(CONTIGS)]
        fasta = folder / "genome.fa"
        write_genome(fasta, contigs, bases, seed=number)
        start = children_s()
        make(fasta, f"s{number}", folder / "made")
        seconds[contigs].append(children_s() - start)
        fasta.unlink()
    for contigs, taken in seconds.items():
        if taken:
            found[f"seconds to make one of {contigs} contigs"] = float(np.median(taken))
    peak_kib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    found["MiB at most while one is made"] = peak_kib / 1024
    files = [path for path in (folder / "made").rglob("*") if path.is_file()]
    found["files a genome"] = len(files) / count
    found["MiB a genome on disk"] = sum(p.stat().st_size for p in files) / 2**20 / count
    return found | further_process("--read", str(folder / "made"), "--window", str(window))


def further_process(*options: str) -> dict[str, float]:
    """Return the figures that this script prints when it is called with these options."""
    command = [sys.executable, __file__, *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment())
    return json.loads(done.stdout)


def write_genome(path: Path, contigs: int, bases: int, seed: int) -> None:
    """Write a FASTA of random bases."""
    random = np.random.default_rng(seed)
    lengths = np.maximum(random.lognormal(0, 1.0 if contigs > 100 else 0.5, contigs), 0.02)
    lengths = np.maximum((lengths / lengths.sum() * bases).astype(int), 200)
    letters = np.frombuffer(b"ACGT", dtype=np.uint8)
    with path.open("wb") as file:
        for number, length in enumerate(lengths.tolist()):
            codes = letters[random.integers(0, 4, length)]
            for start in random.integers(0, length, length // 6000).tolist():
                codes[start : start + 300] |= ord("a") - ord("A")
            for start in random.integers(0, length, length // 100_000).tolist():
                codes[start : start + 500] = ord("N")
            text = codes.tobytes()
            lines = b"\n".join(text[i : i + _LINE] for i in range(0, length, _LINE))
            file.write(b">contig%d\n%s\n" % (number, lines))


def children_s() -> float:
    """Return the processor seconds of the processes that have been started and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def environment() -> dict[str, str]:
    """Return an environment in which this checkout is the package."""
    return os.environ | {"PYTHONPATH": str(REPO)}


def make(fasta: Path, species: str, out: Path) -> None:
    """Make a species as a user would."""
    command = [sys.executable, REPO / "data_prep/genome.py", "--species", species]
    command += ["--fasta", fasta, "--out", out, "--random-blocks", "100000"]
    subprocess.run(command, check=True, capture_output=True, env=environment())


def read_all(folder: Path, window: int) -> dict[str, float]:
    """Open all genomes of a folder, order and read windows of each; return the figures."""
    from spacescale.dataset.genome_windows import GenomeWindows, WindowChoice
    from spacescale.dataset.loader import open_genomes

    memory = [resident_mib()]
    start = time.process_time()
    genomes = open_genomes([folder])
    opened = time.process_time()
    choice = WindowChoice(longest=window, shortest=70, longest_share=0.5)
    windows = {name: GenomeWindows(each, "train", choice) for name, each in genomes.items()}
    laid_out = time.process_time()
    order = order_of({name: len(each) for name, each in windows.items()}, 4 * len(windows))
    order.draws(0, 0)  # of all species, each of which then keeps the order of its windows
    ordered = time.process_time()
    memory.append(resident_mib())
    n = len(genomes)
    for number, each in enumerate(windows.values(), start=1):
        _ = each[0]
        if number in (n // 2, n):
            memory.append(resident_mib())
    read_first = time.process_time()
    draws = [draw for step in range(20_000 // (4 * n)) for draw in order.draws(step, 0)]
    drawn = time.process_time()
    for draw in draws:
        _ = windows[draw.species][draw.number]
    last = time.process_time()
    return {
        "milliseconds to open one": 1000 * (opened - start) / n,
        "milliseconds to lay out windows of one": 1000 * (laid_out - opened) / n,
        "milliseconds to read the first window of one": 1000 * (read_first - ordered) / n,
        "milliseconds to order windows, one more": 1000 * (ordered - laid_out) / n,
        "MiB of memory, one more open and in order": (memory[1] - memory[0]) / n,
        "MiB of memory, one more open and read": (
            (memory[1] - memory[0]) / n + (memory[3] - memory[2]) / (n - n // 2)
        ),
        "MiB of memory in all": memory[3],
        "windows read a second": len(draws) / (last - drawn),
    }


def build_order(species: int) -> dict[str, float]:
    """Build the order of so many species of unequal size; return the figures."""
    sizes = np.random.default_rng(0).lognormal(9, 1, species).astype(int).tolist()
    num_windows = {f"s{number}": size for number, size in enumerate(sizes)}
    order_of({"s0": 1}, 1)  # imports
    memory, start = resident_mib(), time.process_time()
    order = order_of(num_windows, 8)
    order.draws(0, 0)
    return {
        f"seconds to order {species:,} species": time.process_time() - start,
        f"MiB of memory, order of {species:,} species": resident_mib() - memory,
    }


def order_of(num_windows: dict[str, int], at_a_time: int) -> "SampleOrder":
    """Return the order of species' windows, as every process that reads builds it."""
    from spacescale.dataset.sampler import SampleOrder

    return SampleOrder(
        seed=0,
        num_windows=num_windows,
        balance=0.5,
        micro_batch_size=at_a_time,
        world_size=1,
        shift_bp=0,
        reverse_complement=True,
    )


def resident_mib() -> float:
    """Return the resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    main()

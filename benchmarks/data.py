"""Loading windows, preparing targets, reading BigWigs: ours beside the ways of the field.

    python benchmarks/data.py load --json results.json
    python benchmarks/data.py prepare
    python benchmarks/data.py bigwig [FILE ...]

All ways hold or make the same numbers, which is checked, and take turns in one process. Figures
are processor seconds (all threads), because other work on the machine disturbs them least; ratios
are taken within a turn, and their median over the turns is shown.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from track_reading import compare_libraries, compare_readers
from window_stores import BASES, STORES, Store, Window

from spacescale.testing.made_up_data import MadeUpWindows


def main() -> None:
    """Run one of the benchmarks."""
    args = parse_arguments()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        found = args.run(args, Path(folder))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


def parse_arguments() -> argparse.Namespace:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parts = parser.add_subparsers(required=True)
    load = parts.add_parser("load", help="windows read per processor second")
    load.set_defaults(run=compare_stores)
    load.add_argument("--windows", type=int, default=16)
    load.add_argument("--bins", type=int, default=896)
    load.add_argument("--tracks", type=int, default=5313)
    load.add_argument("--seq-length", type=int, default=196_608)
    prepare = parts.add_parser("prepare", help="windows x tracks prepared per processor second")
    prepare.set_defaults(run=compare_readers)
    prepare.add_argument("--windows", type=int, default=64)
    prepare.add_argument("--bins", type=int, default=896)
    prepare.add_argument("--tracks", type=int, default=4)
    bigwig = parts.add_parser("bigwig", help="small windows, and bins of a contig, by library")
    bigwig.set_defaults(run=compare_libraries)
    bigwig.add_argument("bigwigs", type=Path, nargs="*", help="default: two made-up files")
    bigwig.add_argument("--windows", type=int, default=2000)
    bigwig.add_argument("--width", type=int, default=1000)
    bigwig.add_argument("--length", type=int, default=40_000_000, help="bp of the made-up file")
    for part in (load, prepare, bigwig):
        part.add_argument("--turns", type=int, default=5)
        part.add_argument("--folder", type=Path, help="where to write, default the temporary one")
        part.add_argument("--json", type=Path, help="write the results here")
    return parser.parse_args()


def compare_stores(args: argparse.Namespace, folder: Path) -> dict[str, dict[str, float]]:
    """Write the windows in every way, read them in turns, print and return the figures."""
    windows = MadeUpWindows(args.windows, args.bins, args.tracks, args.seq_length, bin_size=128)
    stores = [kind(folder, windows) for kind in STORES]
    for store in stores:
        check(store, windows)
    seconds: dict[str, list[float]] = {store.name: [] for store in stores}
    for _ in range(args.turns):
        for store in stores:
            seconds[store.name].append(cpu_seconds(lambda store=store: drain(store)) / args.windows)
    float16_bytes = 2 * np.prod(windows.shape)
    baseline = seconds[stores[0].name]
    found = {
        store.name: {
            "windows_per_cpu_s": 1 / statistics.median(seconds[store.name]),
            "ratio": statistics.median(
                b / s for b, s in zip(baseline, seconds[store.name], strict=True)
            ),
            "to_float16_bytes": store.stored_bytes() / float16_bytes,
        }
        for store in stores
    }
    print("| | windows / CPU-s | to HDF5 gzip | bytes, sequence too, to float16 targets |")
    print("|---|---|---|---|")
    for name, row in found.items():
        print("| {} | {:.1f} | {:.2f} | {:.3f} |".format(name, *row.values()))
    return found


def cpu_seconds(run: Callable[[], None]) -> float:
    """Processor seconds of this process, all its threads."""
    started = time.process_time()
    run()
    return time.process_time() - started


def drain(store: Store) -> None:
    """Read everything and keep nothing."""
    for _ in store.read():
        pass


def check(store: Store, windows: MadeUpWindows) -> None:
    """Every store gives back the windows bit for bit, or this ends here."""
    rows = range(windows.shape[0])
    for row, (bases, targets) in zip(rows, store.read(), strict=True):
        if not same((bases, targets), windows, row):
            raise SystemExit(f"{store.name}: window {row} is not what was written")


def same(window: Window, windows: MadeUpWindows, row: int) -> bool:
    """Whether bases (codes or one-hot) and targets (float16 or 32) are those of a row."""
    bases, targets = window
    codes = windows.sequence(row)
    expected = BASES[codes] if bases.ndim == 2 else codes
    return np.array_equal(bases, expected) and np.array_equal(targets, windows[row : row + 1][0])


if __name__ == "__main__":
    main()

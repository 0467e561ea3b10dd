"""Peak memory of converting a sharded checkpoint, and of loading what comes out, in copies of it.

    python benchmarks/conversion.py [--depth 6] [--folder /with/6/GB] [--update]

Two processes write a checkpoint of 320 M parameters under ZeRO-2, the experts divided between them;
then each command is a process of its own. What such a process takes without any weights is
subtracted from its peak (VmHWM: pages of files that are mapped count, too). --update writes the
table into README.md.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from checkpoint import MODEL, save, start
from readme_tables import update_readme

from spacescale.checkpoint import layout
from spacescale.checkpoint.partitions import Partitions
from spacescale.checkpoint.pieces import WEIGHT
from spacescale.files import size_below
from spacescale.testing.ranks import run_ranks

BEGIN, END = "<!-- conversion.py: begin -->", "<!-- conversion.py: end -->"
MEASURED = """
import sys
from spacescale.cli import main
import spacescale.checkpoint.released, spacescale.hub.export, spacescale.predict.trained_model
{}
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print("peak KiB:", peak.split()[1])
"""
CONVERT = "sys.argv = ['spacescale', 'convert', *{!r}]; assert main() == 0"
LOAD = "from spacescale.model.space import Space; Space.from_pretrained({!r})"
BY_TRANSFORMERS = (
    "from transformers import AutoModel; AutoModel.from_pretrained({!r}, trust_remote_code=True)"
)


def write_checkpoint(folder: Path, depth: int) -> None:
    """On each of two ranks."""
    settings = MODEL.model_copy(update={"dim": 1536, "depth": depth, "tracks_num_experts": 8})
    run = start(folder, settings, ep_size=2)
    for piece in Partitions(run.engine).pieces():
        piece.fields[WEIGHT].mul_(0.01)  # so that its predictions are finite
    save(run.waiting, 1)


def peak_bytes(code: str) -> int:
    """Largest resident size of a process that runs this."""
    command = [sys.executable, "-c", MEASURED.format(code)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return 1024 * int(done.stdout.split("peak KiB:")[1])


def measure(folder: Path) -> list[str]:
    """One line per command."""
    checkpoint = layout.checkpoints_folder(folder / "waiting") / layout.step_name(1)
    words = {
        "--to pytorch": (checkpoint, "plain"),
        "--to hub": (checkpoint, "hub"),
        "--to hub, from an export": (folder / "plain", "hub2"),
    }
    jobs = {
        f"`convert {name.partition(',')[0]}`{name[len(name.partition(',')[0]) :]}": CONVERT.format(
            [str(source), "--to", name.split()[1].rstrip(","), "--out", str(folder / out)]
        )
        for name, (source, out) in words.items()
    }
    jobs["`Space.from_pretrained`"] = LOAD.format(str(folder / "hub"))
    jobs["`AutoModel.from_pretrained`"] = BY_TRANSFORMERS.format(str(folder / "hub"))
    bare = {True: peak_bytes("import transformers"), False: peak_bytes("")}
    lines = ["| command | peak, copies of the weights | peak, GB | seconds |", "|---|---|---|---|"]
    for name, code in jobs.items():
        began = time.perf_counter()
        peak = peak_bytes(code)
        took = time.perf_counter() - began
        weights = (folder / "plain" / "model.safetensors").stat().st_size
        copies = (peak - bare["transformers" in code]) / weights
        lines.append(f"| {name} | {copies:.2f} | {peak / 1e9:.2f} | {took:.0f} |")
        print(lines[-1], flush=True)
    return [*lines, "", f"Weights {weights / 1e9:.2f} GB, checkpoint "
            f"{size_below(checkpoint) / 1e9:.2f} GB, a process without either "
            f"{bare[False] / 1e9:.2f} GB."]  # fmt: skip


def main() -> None:
    """Write the checkpoint, measure, print, and write the table where it is wanted."""
    parser = argparse.ArgumentParser(description="Measure the memory of conversion.")
    parser.add_argument("--depth", type=int, default=6, help="blocks of 44 M parameters each")
    parser.add_argument("--folder", type=Path, help="where there is room for 8 GB")
    parser.add_argument("--update", action="store_true", help="write the table into README.md")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        run_ranks(write_checkpoint, 2, Path(folder), args.depth, timeout_s=7200)
        lines = measure(Path(folder))
    print(*lines, sep="\n")
    if args.update:
        update_readme(BEGIN, END, lines)


if __name__ == "__main__":
    main()

"""`make demo`: the main job on the embedded data, from genomes to exported weights."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from spacescale import console
from spacescale.dataset.loader import open_datasets
from spacescale.parallel import comm
from spacescale.testing.embedded_data import embedded_data
from spacescale.testing.possible import share_of_possible

ROOT = Path(__file__).resolve().parents[2]
DEEPSPEED_JSON = ROOT / "ds_configs" / "zero2_moe.json"


def training_command(output: Path) -> list[str]:
    """The launcher's command line: all GPUs of the machine, or one process on its CPU."""
    launcher = str(Path(sys.executable).with_name("deepspeed"))
    processes = [] if comm.uses_gpu() else ["--num_gpus", "1"]
    script = str(ROOT / "spacescale" / "pretrain.py")
    return [
        launcher, *processes, script,
        "--deepspeed", str(DEEPSPEED_JSON), "--output", str(output), "--resume", "auto",
    ]  # fmt: skip


def run(title: str, command: list[str]) -> None:
    """Show a command, run it, and end the demo with its exit status if it fails."""
    print(f"\n── {title}\n$ {' '.join(command)}", flush=True)
    status = subprocess.run(command, check=False).returncode
    if status:
        sys.exit(status if status > 0 else 1)


def main() -> None:
    """Train, evaluate, convert, and say what there is to see."""
    console.prepare(goes_on=True)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/demo"))
    output = parser.parse_args().output
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if comm.uses_gpu() else "cpu")
    start = time.perf_counter()
    tool, tensorboard = (
        str(Path(sys.executable).with_name(name)) for name in ("spacescale", "tensorboard")
    )
    export = output / "export"
    run("Train on three simulated species", training_command(output))
    run("Score the held-out test windows", [tool, "evaluate", str(output)])
    shutil.rmtree(export, ignore_errors=True)  # of an earlier demo
    run("Export plain PyTorch weights", [tool, "convert", str(output), "--out", str(export)])
    evaluation = output / "evaluation" / "test"
    datasets = open_datasets([embedded_data()]).values()
    print("\nThe signal without its noise, the best possible prediction, would have reached:")
    print(share_of_possible(datasets, evaluation / "metrics.json"))
    print(
        f"""
Done in {(time.perf_counter() - start) / 60:.1f} minutes.
  scores        {evaluation / "metrics.json"}
  figures       {evaluation / "figures"}
  checkpoints   {output / "checkpoints"}
  weights       {export}
  TensorBoard   {tensorboard} --logdir {output}

In Python:      from spacescale.model import Space
                model = Space.from_pretrained("{export}")
Next:           your own genome and tracks: docs/new_species.md"""
    )


if __name__ == "__main__":
    main()

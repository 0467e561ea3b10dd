"""The repository's own scripts, as a user starts them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_script(*words: object) -> None:
    """Run a script of the repository, from its root, to its end; raises where it fails."""
    subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, check=True)


def pretrain(output: Path, steps: int, *words: object) -> None:
    """Train a run to its end, or what is missing of it. words: further ones of the command.

    Raises SystemExit for a run of another number of steps: its rate has fallen by then, and what
    goes on from there is no run of so many steps.
    """
    config = output / "config.json"
    if config.exists():
        begun = json.loads(config.read_text())["spacescale"]["optim"]["max_steps"]
        if begun != steps:
            raise SystemExit(f"error: {output}: a run of {begun} steps; {steps} need another --out")
    run_script(
        "spacescale/pretrain.py", *words, "--output", output, "--resume", "auto",
        f"optim.max_steps={steps}",
    )  # fmt: skip

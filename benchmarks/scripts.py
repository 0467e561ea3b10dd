"""The repository's own scripts, as a user starts them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_script(*words: object) -> None:
    """Run a script of the repository, from its root, to its end; raises where it fails."""
    subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, check=True)

"""Who may import what, beyond the contracts of import-linter (pyproject.toml)."""

import re
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "spacescale"
IMPORTS_TENSORBOARD = re.compile(r"^\s*(from|import)\b.*\btensorboard", re.MULTILINE)


def test_only_the_metrics_writer_imports_tensorboard():
    # import-linter sees `tensorboard` only, not the usual way in, torch.utils.tensorboard.
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if IMPORTS_TENSORBOARD.search(path.read_text(encoding="utf-8"))
    }
    assert found == {"metrics/writer.py"}


def test_the_model_comes_without_the_heavy_packages():
    heavy = ["deepspeed", "zarr", "matplotlib", "tensorboard"]
    code = (
        "import sys, spacescale, spacescale.model\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

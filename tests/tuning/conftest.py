"""The tiny models of the model's tests."""

import sys
from pathlib import Path

sys.path += [str(Path(__file__).parents[1] / "model"), str(Path(__file__).parents[1] / "predict")]

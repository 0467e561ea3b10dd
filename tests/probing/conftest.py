"""The tiny models and tasks of other rooms' tests."""

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path += [str(TESTS / room) for room in ("model", "predict", "tuning")]

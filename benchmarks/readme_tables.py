"""Tables of README.md that the scripts of this folder write."""

import re
from collections.abc import Sequence
from pathlib import Path

README = Path(__file__).parent / "README.md"


def update_readme(begin: str, end: str, lines: Sequence[str]) -> None:
    """Put lines between two marks of README.md. Raises ValueError where the marks are not there."""
    text = README.read_text()
    found = re.search(f"{re.escape(begin)}.*{re.escape(end)}", text, re.DOTALL)
    if not found:
        raise ValueError(f"{README} has lost the marks {begin} and {end}")
    README.write_text(text.replace(found[0], "\n".join([begin, "", *lines, "", end])))

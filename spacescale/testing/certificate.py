"""The checks of `spacescale selfcheck`, and the page and file that certify them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spacescale.files import write_json, write_text
from spacescale.metrics.writer import json_safe

FORMAT, VERSION = "spacescale-selfcheck", 1


@dataclass(frozen=True)
class Check:
    """One figure against its bound. A figure that is not finite fails."""

    name: str
    figure: float
    bound: float
    where: str = ""  # the figure is of, or what went wrong

    @property
    def holds(self) -> bool:
        """Whether the figure keeps its bound."""
        return self.figure <= self.bound

    def __str__(self) -> str:
        word = "holds " if self.holds else "FAILED"
        where = f" ({self.where})" if self.where else ""
        return f"{word} {self.name}: {self.figure:.1e}, allowed {self.bound:.1e}{where}"


@dataclass(frozen=True)
class Certificate:
    """What was checked, where, and with which result."""

    checks: list[Check]
    circumstances: dict[str, str]  # versions, machines, layout of the processes, in words

    @property
    def holds(self) -> bool:
        """Whether every check does."""
        return all(check.holds for check in self.checks)

    @property
    def verdict(self) -> str:
        """One sentence."""
        failed = sum(not check.holds for check in self.checks)
        if self.holds:
            return f"All {len(self.checks)} checks hold."
        return f"{failed} of {len(self.checks)} checks FAILED: do not train so."

    def write(self, path: Path) -> Path:
        """Write the page to `path`, in Markdown, and its figures beside it as JSON.

        Returns the JSON's path.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        as_json = path.with_suffix(".json")
        write_json(as_json, self._payload(), indent=1)
        write_text(path, self._page())
        return as_json

    def _payload(self) -> dict[str, Any]:
        checks = [json_safe(asdict(check)) | {"holds": check.holds} for check in self.checks]
        return {
            "format": FORMAT,
            "format_version": VERSION,
            "holds": self.holds,
            "circumstances": self.circumstances,
            "checks": checks,
        }

    def _page(self) -> str:
        lines = [
            "# spacescale selfcheck",
            "",
            self.verdict,
            "",
            "| check | figure | bound | holds | of |",
            "|---|---|---|---|---|",
            *(
                f"| {c.name} | {c.figure:.1e} | {c.bound:.1e} | {'yes' if c.holds else '**NO**'} | "
                f"{c.where.replace('|', '/')} |"
                for c in self.checks
            ),
            "",
            "| circumstance | |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in self.circumstances.items()),
            "",
            "A tiny model was trained by the trainer itself, on made-up data, and the same windows "
            "by plain PyTorch in one process; figures are relative differences between the two. "
            "Then weights, moments, statistics and random state were spoiled in memory, and the "
            "run went on from its checkpoint.",
            "",
        ]
        return "\n".join(lines)

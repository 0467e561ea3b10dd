"""What a check of a dataset found, for people and for programs."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

_MOST_SHOWN = 10


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or that a person should look at.

    severity: an error makes the dataset unfit for training, a warning is for judgement. check:
    which one, in a word. file: what it is about, as a path that exists or should. place: the
    window, track or contig within the file, where it is about a part.
    """

    severity: Literal["error", "warning"]
    check: str
    file: Path
    what: str
    place: str = ""

    def __str__(self) -> str:
        place = f", {self.place}" if self.place else ""
        return f"{self.file}{place}: {self.what}"

    def as_plain(self) -> dict[str, str]:
        """Return the fields for JSON."""
        return asdict(self) | {"file": str(self.file)}


def error(check: str, file: Path, what: str, place: str = "") -> Finding:
    """Return a finding that makes a dataset unfit."""
    return Finding("error", check, file, what, place)


def warning(check: str, file: Path, what: str, place: str = "") -> Finding:
    """Return a finding for a person to judge."""
    return Finding("warning", check, file, what, place)


def has_errors(findings: Iterable[Finding]) -> bool:
    """Tell whether any of them is an error."""
    return any(finding.severity == "error" for finding in findings)


def as_text(findings: list[Finding]) -> str:
    """Return the findings grouped by check, errors first, at most ten of each shown."""
    lines = []
    ordered = sorted(findings, key=lambda finding: (finding.severity, finding.check))
    for (severity, check), same in groupby(ordered, lambda f: (f.severity, f.check)):
        group = list(same)
        lines.append(f"{severity}: {check} ({len(group)})")
        lines += [f"  {finding}" for finding in group[:_MOST_SHOWN]]
        if len(group) > _MOST_SHOWN:
            lines.append(f"  … and {len(group) - _MOST_SHOWN} more; --json lists all")
    return "\n".join(lines)

"""A recommendation as text for a terminal, and as JSON."""

from __future__ import annotations

import json
import textwrap
from dataclasses import asdict

from spacescale.console import aligned
from spacescale.planning.recommend import Here, Recommendation

_WIDTH = 100


def as_text(found: Recommendation) -> str:
    """What the data are, settings with reasons, cautions, and the command at the end."""
    careful = [f"careful: {line}" for line in found.cautions]
    sections = [
        _data(found),
        [_machine(found.machine)],
        _settings(found),
        [line for text in careful for line in textwrap.wrap(text, _WIDTH, subsequent_indent="  ")],
        [" \\\n    ".join(found.command)],
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def as_json(found: Recommendation) -> str:
    """The same in plain values."""
    values = {
        "species": [asdict(s) | {"measured_bins": s.measured_bins} for s in found.species],
        "machine": asdict(found.machine),
        "settings": [asdict(c) | {"guess": c.is_guess} for c in found.choices],
        "trial": asdict(found.trial),
        "planned_bytes_per_process": found.plan.total_bytes,
        "parameters": found.plan.parameters.total,
        "cautions": found.cautions,
        "command": " ".join(found.command),
    }
    return json.dumps(values, indent=1)


def _data(found: Recommendation) -> list[str]:
    rows = [["data", "train", "valid", "test", "Mbp", "tracks", "measured", "above 0"]]
    for species in found.species:
        tracks = species.tracks
        measured = sum(track.measured for track in tracks) / len(tracks)
        above = [track.above_zero for track in tracks if track.measured]
        rows.append(
            [
                species.name,
                *(f"{species.windows.get(split, 0):,}" for split in ("train", "valid", "test")),
                f"{species.train_bp / 1e6:.2f}",
                f"{len(tracks):,}",
                f"{measured:.1%}" if species.measured_known else "?",
                f"{sum(above) / len(above):.1%}" if above else "-",
            ]
        )
    return aligned(rows)


def _machine(here: Here) -> str:
    gib = f"{here.memory_bytes / 2**30:.1f} GiB"
    if here.gpus:
        return f"machine  {here.gpus} × {here.gpu} of {gib}, {here.cores} cores"
    return f"machine  {here.cores} cores, {gib}, no GPU"


def _settings(found: Recommendation) -> list[str]:
    names = max(len(choice.setting) for choice in found.choices)
    values = max(len(choice.value) for choice in found.choices)
    lines = []
    for choice in found.choices:
        head = f"{choice.setting:<{names}}  {choice.value:<{values}}  "
        guess = " (a guess)" if choice.is_guess else ""
        lines += textwrap.wrap(
            f"{choice.why}{guess}",
            _WIDTH,
            initial_indent=head,
            subsequent_indent=" " * len(head),
        )
    return lines

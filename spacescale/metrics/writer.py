"""Where a run's numbers go: TensorBoard, metrics.jsonl and a progress bar, from one rank.

metrics.jsonl holds one JSON object per call: {"step": …, "time": …, name: number, …}; time is
seconds since 1970. NaN and infinities are written as null, since JSON has no such numbers.
"""

import json
import logging
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from spacescale.files import write_text

logger = logging.getLogger(__name__)

METRICS_FILE, TENSORBOARD_FOLDER = "metrics.jsonl", "tensorboard"


class RunLog:
    """Scalars and texts of one run, written to `folder`; does nothing unless enabled (rank 0).

    resume_step: the step of the checkpoint a run continues from, 0 for a new run. Later points
    are dropped, those in TensorBoard hidden, so that none appears twice.
    """

    def __init__(self, folder: Path, enabled: bool = True, resume_step: int = 0):
        self._file = self._tensorboard = None
        if not enabled:
            return
        folder.mkdir(parents=True, exist_ok=True)
        _drop_after(folder / METRICS_FILE, resume_step)
        self._file = (folder / METRICS_FILE).open("a", encoding="utf-8")
        self._tensorboard = _tensorboard_writer(folder / TENSORBOARD_FOLDER, resume_step + 1)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers at an optimiser step."""
        if self._file is None:
            return
        numbers = {name: float(value) for name, value in values.items()}
        record = {"step": step, "time": round(time.time(), 3), **json_safe(numbers)}
        self._file.write(json.dumps(record, allow_nan=False) + "\n")
        self._file.flush()
        if self._tensorboard is not None:
            for name, number in numbers.items():
                self._tensorboard.add_scalar(name, number, step)

    def text(self, name: str, text: str, step: int = 0) -> None:
        """Show a text (Markdown) in TensorBoard."""
        if self._tensorboard is not None:
            self._tensorboard.add_text(name, text, step)

    def close(self) -> None:
        """Write out what is buffered; later calls do nothing."""
        for writer in filter(None, (self._file, self._tensorboard)):
            writer.close()
        self._file = self._tensorboard = None


def _tensorboard_writer(folder: Path, purge_step: int) -> Any:
    """TensorBoard's writer, or None where it is not installed: metrics.jsonl holds the same."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        logger.warning("no TensorBoard (%s); %s holds all numbers", error, METRICS_FILE)
        return None
    return SummaryWriter(str(folder), purge_step=purge_step, flush_secs=30)


def json_safe(value: Any) -> Any:
    """Return plain values with NaN and infinities, which JSON lacks, replaced by None."""
    if isinstance(value, Mapping):
        return {key: json_safe(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_safe(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the records of a metrics.jsonl; lines that are damaged, as by a crash, are skipped."""
    records, broken = [], []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            record = json.loads(line)
            is_record = isinstance(record["step"], int) and all(map(_is_number, record.values()))
        except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
            is_record = False
        if is_record:
            records.append(record)
        else:
            broken.append(number)
    if broken:
        logger.warning("%s: skipped %d damaged lines, the first %d", path, len(broken), broken[0])
    return records


def _is_number(value: Any) -> bool:
    """Whether it is what `json_safe` makes of a number that fits a float."""
    return value is None or (isinstance(value, int | float) and abs(value) <= sys.float_info.max)


def _drop_after(path: Path, step: int) -> None:
    """Keep only the records up to `step`; the file is replaced in one move."""
    if not path.exists():
        return
    kept = [record for record in read_metrics(path) if record["step"] <= step]
    write_text(path, "".join(json.dumps(record) + "\n" for record in kept))


class TrainingProgress:
    """A progress bar over `total` optimiser steps, of which `initial` are done.

    When stderr is no terminal, a plain line every `log_every` steps instead; nothing at all
    unless enabled (rank 0).
    """

    def __init__(self, total: int, initial: int = 0, log_every: int = 50, enabled: bool = True):
        self._bar = tqdm(
            total=total,
            initial=initial,
            unit="step",
            dynamic_ncols=True,
            disable=None if enabled else True,  # None: quiet when stderr is no terminal
        )
        self._total, self._log_every = total, log_every
        self._enabled = enabled
        self._prints = enabled and self._bar.disable

    def update(
        self,
        step: int,
        losses: Mapping[str, float],
        windows_per_s: float,
        time_left_s: float | None = None,
        windows: Mapping[str, int] | None = None,
    ) -> None:
        """Move to `step` steps done and show the losses, speed and time left.

        windows: how many a loss is the mean over, for those that stand in it; shown in brackets.
        """
        counts = {name: f" ({count})" for name, count in (windows or {}).items()}
        parts = [
            f"{name} {'-' if math.isnan(value) else f'{value:.4g}'}{counts.get(name, '')}"
            for name, value in losses.items()
        ]
        parts.append(f"{windows_per_s:.1f} windows/s")
        self._bar.set_postfix_str(", ".join(parts), refresh=False)
        self._bar.update(step - self._bar.n)
        if self._prints and (step % self._log_every == 0 or step == self._total):
            if time_left_s is not None:
                parts.append(f"{time_left_s / 60:.0f} min left")
            print(f"step {step}/{self._total}:", ", ".join(parts), flush=True)

    def say(self, text: str) -> None:
        """Print a line, above the bar where there is one."""
        if self._enabled:
            tqdm.write(text)

    def close(self) -> None:
        """Leave the bar as it is and end its line."""
        self._bar.close()

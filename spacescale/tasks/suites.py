"""The tasks of a folder, and what each is called there: the same wherever the folder is given."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

from spacescale.errors import UserError
from spacescale.tasks.read_task import task_name, tasks_below


def find_tasks(folder: Path, wanted: list[str] | None = None) -> dict[str, Path]:
    """Name → folder, of the tasks below a folder of which one of the patterns is the name.

    Tasks of one name are called by their path. Raises UserError where there is none.
    """
    paths = tasks_below(folder)
    names = [task_name(path) for path in paths]
    found = {
        name if names.count(name) == 1 else "_".join(path.relative_to(folder).parts): path
        for name, path in zip(names, paths, strict=True)
    }
    if wanted:
        found = {n: p for n, p in found.items() if any(fnmatchcase(n, one) for one in wanted)}
    if not found:
        raise UserError(f"{folder}: no task in it of {', '.join(wanted or [])}")
    return found

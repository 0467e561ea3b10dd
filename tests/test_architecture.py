"""What docs/architecture.md and its drawing name exists, and no room is missing."""

import re
from pathlib import Path

REPO = Path(__file__).parents[1]
PACKAGE = REPO / "spacescale"
DOCUMENTS = ["docs/architecture.md", "docs/figures/architecture.svg"]
# A path of the package or the repository: a room, a module, or what a module lies beside.
NAME = re.compile(r"(?<![\w./])((?:\w+/)+(?:\w+\.(?:py|md))?|\w+\.(?:py|md|toml))")
MADE_BY_USERS = ("datasets/", "runs/")


def named(document):
    text = (REPO / document).read_text(encoding="utf-8")
    found = set(NAME.findall(re.sub(r"\]\([^)]*\)|https?://\S+", "", text)))
    assert len(found) > 10
    return {name for name in found if not name.startswith(MADE_BY_USERS)}


def exists(name):
    if "/" in name:
        return (REPO / name).exists() or (PACKAGE / name).exists()
    return (REPO / name).is_file() or any(PACKAGE.rglob(name))


def test_every_name_is_there():
    missing = {(d, name) for d in DOCUMENTS for name in named(d) if not exists(name)}
    assert not missing


def test_every_room_is_drawn():
    rooms = {f"{init.parent.name}/" for init in PACKAGE.glob("*/__init__.py")}
    tops = {path.name for path in PACKAGE.glob("*.py")} - {"__init__.py"}
    drawing = (REPO / DOCUMENTS[1]).read_text(encoding="utf-8")
    assert [name for name in sorted(rooms | tops) if name not in drawing] == []

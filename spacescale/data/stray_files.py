"""Files that file managers, sync tools and network file systems leave in any folder."""

import re
from pathlib import Path, PurePath

_NAMES = (
    r"\.DS_Store|\._.*|\.AppleDouble|\.localized|Icon\r"  # macOS
    r"|\.Spotlight-V100|\.Trashes|\.fseventsd"
    r"|Thumbs\.db|ehthumbs\.db|desktop\.ini|.*:Zone\.Identifier"  # Windows
    r"|\.directory|\.Trash-\d+"  # Linux desktops
    r"|@eaDir|#recycle|\.nfs[0-9a-f]+|\.fuse_hidden[0-9a-f]+|\.stfolder|\.syncthing\..*"  # servers
)
_STRAY = re.compile(_NAMES, re.IGNORECASE)


def is_stray(path: PurePath) -> bool:
    """Whether a relative path, or a folder on it, is named as only such programs name files."""
    return any(_STRAY.fullmatch(part) for part in path.parts)


def files_below(folder: Path) -> list[Path]:
    """Return all files below a folder, links included, sorted; stray ones left out."""
    found = (path for path in folder.rglob("*") if not path.is_dir())
    return sorted(path for path in found if not is_stray(path.relative_to(folder)))


def stray_files(folder: Path) -> list[Path]:
    """Return the stray files below a folder, sorted."""
    found = (path for path in folder.rglob("*") if not path.is_dir())
    return sorted(path for path in found if is_stray(path.relative_to(folder)))

"""The site as a mirror of the repository: every page lies where its source lies.

So links from one document to another hold on the site as they do in the repository. What documents
link to besides documents is led elsewhere: a module of the package to its place in the API
reference, another file to a page that shows it; of a link to a folder its text is left. Notebooks
become pages with the outputs that they hold. MkDocs calls the functions `on_…`; mkdocs.yml lists
the pages.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File, InclusionLevel
from nbconvert import MarkdownExporter

REPO = Path(__file__).parents[1]
SOURCES = (
    "*.md", "*/README.md", "docs/**/*.md", "docs/figures/*", "docs/site.css",
    "spacescale/*/README.md", "tests/golden/data/README.md",
)  # fmt: skip
LINK = re.compile(r"\[([^\[\]]*)\]\(([^)\s:#]+)\)")


def on_files(files, config):
    """Add the documents, their figures, the files that they link to, and the API reference."""
    for file in list(files):
        if file.src_dir == config.docs_dir:  # their paths would begin inside docs/
            files.remove(file)
    paths = sorted({path for pattern in SOURCES for path in REPO.glob(pattern)})
    uris = [path.relative_to(REPO).as_posix() for path in paths]
    pages = {uri: (REPO / uri).read_text("utf-8") for uri in uris if uri.endswith(".md")}
    for uri in uris:
        files.append(File.generated(config, uri, abs_src_path=str(REPO / uri)))
    for path in sorted(REPO.glob("docs/*.ipynb")):
        uris.append(uri := path.relative_to(REPO).as_posix())
        pages[uri], figures = _read_notebook(path)
        files.append(File.generated(config, _page_of(uri), content=pages[uri]))
        for name, content in figures.items():
            files.append(File.generated(config, f"docs/{name}", content=content))
    linked = {_resolve(uri, link[2]) for uri, text in pages.items() for link in LINK.finditer(text)}
    for uri in sorted(linked - set(uris)):
        if (REPO / uri).is_file() and not _is_module(uri):
            files.append(_shown_file(config, uri))
    package = REPO / "spacescale"
    for room in (package, *(init.parent for init in package.glob("*/__init__.py"))):
        files.append(File.generated(config, f"api/{room.name}.md", content=_api_page(room)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Lead links that do not lead to a document to a page of the site."""

    def lead(link):
        uri = _resolve(page.file.src_uri, link[2])
        if uri in files.src_uris or not (REPO / uri).exists():  # MkDocs refuses the latter
            return link[0]
        if (REPO / uri).is_dir():
            return link[1]
        here = posixpath.dirname(page.file.src_uri)
        return f"[{link[1]}]({posixpath.relpath(_page_of(uri), here)})"

    # GitHub renders Markdown inside <details>, Python-Markdown where it is told to.
    return LINK.sub(lead, markdown).replace("<details>", '<details markdown="1">')


def _resolve(uri, target):
    """Path in the repository of a link's target."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(uri), target))


def _is_module(uri):
    return uri.startswith("spacescale/") and uri.endswith(".py")


def _page_of(uri):
    """Where the site shows a file that is not a document."""
    if not _is_module(uri):
        return f"{uri}.md"
    names = uri.removesuffix(".py").split("/")
    room = names[1] if len(names) > 2 else names[0]
    return f"api/{room}.md#{'.'.join(names)}"


def _read_notebook(path):
    """Its Markdown, and the figures of its outputs: relative path → bytes."""
    names = {"unique_key": path.stem, "output_files_dir": f"{path.stem}_files"}
    text, resources = MarkdownExporter().from_filename(str(path), resources=names)
    return text, resources["outputs"]


def _shown_file(config, uri):
    text = (REPO / uri).read_text("utf-8")
    content = f"# `{uri}`\n\n````{Path(uri).suffix[1:]}\n{text}\n````\n"
    page = f"{uri}.md"
    return File.generated(config, page, content=content, inclusion=InclusionLevel.NOT_IN_NAV)


def _api_page(room):
    """What the room says of itself, then its modules."""
    modules = sorted(room.glob("*.py" if room.parent == REPO else "**/*.py"))
    names = [".".join(path.relative_to(REPO).with_suffix("").parts) for path in modules]
    own, *others = (name.removesuffix(".__init__") for name in names)
    intro = f"# `{own}`\n\n::: {own}\n    options: {{show_root_heading: false, members: false}}\n"
    return intro + "".join(f"\n::: {name}\n" for name in others)

"""One file of model code from the package's own, which needs torch and transformers alone.

The modules stand one behind the other, without what imports the package. What the configuration
class of the package computes is taken over; its checks, by pydantic, are not.
"""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import spacescale
from spacescale.encoder_config import EncoderConfig
from spacescale.sections import Section
from spacescale.space_config import ModelConfig

PACKAGE = Path(spacescale.__file__).parent
# What JSON makes lists of.
SPACE_TUPLES = """\
        self.species = {name: tuple(tracks) for name, tracks in self.species.items()}
        self.checkpoint_stages = tuple(self.checkpoint_stages)
"""
LEFT_OUT = frozenset({"from_pretrained of Space", "meta_model"})  # read with what is ours alone
HEADER = '''"""{title} as transformers loads it. Generated: do not edit.

Made by spacescale {version}, Apache-2.0, of {modules}.
"""
'''


@dataclass(frozen=True)
class Code:
    """What the code of a folder is made of.

    title: of the model, in its first line. configuration, modeling: names of its two files.
    hub_config: the module of the package that is the first, and the class in it. shape: the class
    of the model's own configuration, and the file it stands in. modules: of the second file.
    """

    title: str
    configuration: str
    modeling: str
    hub_config: tuple[str, str]
    shape: tuple[type[Section], str]
    modules: tuple[str, ...]


SPACE = Code(
    title="SPACE (arXiv 2506.01833)",
    configuration="configuration_space.py",
    modeling="modeling_space.py",
    hub_config=("hub/hub_config.py", "SpaceConfig"),
    shape=(ModelConfig, "space_config.py"),
    modules=(
        "model/precision.py", "model/layers.py", "model/kernels.py", "model/attention.py",
        "model/experts.py", "model/router.py", "model/moe.py", "model/decoder.py",
        "model/recompute.py", "model/space.py", "model/choices.py", "model/proof_file.py",
        "model/proof.py", "hub/proved.py", "hub/hub_model.py",
    ),
)  # fmt: skip
ENCODER = Code(
    title="An encoder of tokens, after Genomics-FM,",
    configuration="configuration_encoder.py",
    modeling="modeling_encoder.py",
    hub_config=("hub/hub_encoder_config.py", "TokenEncoderConfig"),
    shape=(EncoderConfig, "encoder_config.py"),
    modules=(
        "model/kernels.py", "model/encoder.py", "model/proof_file.py", "model/encoder_proof.py",
        "hub/proved.py", "hub/hub_encoder.py",
    ),
)  # fmt: skip
CODES = (SPACE, ENCODER)


def configuration_source(code: Code = SPACE) -> str:
    """The text of its file of configuration."""
    return (PACKAGE / code.hub_config[0]).read_text()


def modeling_source(code: Code = SPACE) -> str:
    """The text of its file of the model. Raises ValueError where two modules share a name."""
    parts = [_Module(PACKAGE / name) for name in code.modules]
    shared = [n for n, times in Counter(n for p in parts for n in p.names).items() if times > 1]
    if shared:
        raise ValueError(f"names of several modules: {', '.join(shared)}")
    return "\n".join(
        [
            HEADER.format(
                title=code.title, version=spacescale.__version__, modules=", ".join(code.modules)
            ),
            "from __future__ import annotations",
            "",
            *_joined(node for part in parts for node in part.imports),
            "",
            f"from .{Path(code.configuration).stem} import {code.hub_config[1]}",
            "",
            "",
            _configuration(*code.shape),
            *(part.body for part in parts),
        ]
    )


def _joined(nodes: Iterable[ast.Import | ast.ImportFrom]) -> list[str]:
    """Lines that import what all of the nodes do: modules, then names by module."""
    modules: set[str] = set()
    names: dict[str, set[str]] = defaultdict(set)
    for node in nodes:
        if isinstance(node, ast.Import):
            modules.add(ast.unparse(node))
        else:
            names[node.module or ""] |= {ast.unparse(alias) for alias in node.names}
    froms = (f"from {module} import {', '.join(sorted(names[module]))}" for module in sorted(names))
    return [*sorted(modules), *froms]


class _Module:
    """What a module imports from elsewhere, the names it makes, and its code behind the imports."""

    def __init__(self, path: Path):
        text = path.read_text()
        tree = ast.parse(text)
        lines = text.splitlines()
        imports = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
        self.imports = [node for node in imports if not _is_ours(node)]
        self.names = [name for node in tree.body for name in _names(node)]
        for first, last in reversed(list(_left_out(tree))):
            del lines[first - 1 : last]
        begin = max((n.end_lineno or 0 for n in imports), default=0)
        self.body = "\n".join(lines[begin:]).strip("\n") + "\n\n"


def _is_ours(node: ast.Import | ast.ImportFrom) -> bool:
    names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
    return any(name.split(".")[0] in ("spacescale", "__future__") for name in names)


def _names(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else []
    found = [n for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)]
    return [name.id for name in found if name.id != "logger"]


def _left_out(tree: ast.Module) -> list[tuple[int, int]]:
    """First and last line of what is not taken over."""
    spans = []
    for node in tree.body:
        inside = node.body if isinstance(node, ast.ClassDef) else []
        for part, name in [
            (node, getattr(node, "name", "")),
            *((n, f"{getattr(n, 'name', '')} of {getattr(node, 'name', '')}") for n in inside),
        ]:
            if name in LEFT_OUT and isinstance(part, ast.FunctionDef):
                decorators = [d.lineno for d in part.decorator_list]
                spans.append((min([part.lineno, *decorators]), part.end_lineno or part.lineno))
    return spans


def _configuration(shape: type[Section], file: str) -> str:
    """The package's class of a model's shape as a plain one, with what it computes."""
    text, name = (PACKAGE / file).read_text(), shape.__name__
    (model,) = (n for n in ast.parse(text).body if isinstance(n, ast.ClassDef) and n.name == name)
    lines = text.splitlines()
    computed = [
        "\n".join(lines[n.decorator_list[0].lineno - 1 : n.end_lineno])
        for n in model.body
        if isinstance(n, ast.FunctionDef)
        and any(ast.unparse(d) == "property" for d in n.decorator_list)
    ]
    defaults = shape().model_dump(mode="python")
    own = SPACE_TUPLES if shape is ModelConfig else ""
    rows = "\n".join(f"    {name!r}: {value!r}," for name, value in defaults.items())
    return f'''Stage = str
DEFAULTS: dict[str, Any] = {{
{rows}
}}


class {name}:
    """Shape of the model, see `config.json`."""

    def __init__(self, **values: Any):
        if unknown := set(values) - set(DEFAULTS):
            raise ValueError(f"unknown settings of the model: {{sorted(unknown)}}")
        for name, value in (DEFAULTS | values).items():
            setattr(self, name, value)
{own}
{chr(10).join(part + chr(10) for part in computed)}
'''

"""The documents promise commands and files: each must parse, each must be there."""

import importlib.util
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from spacescale.cli import build_parser
from spacescale.overrides import build_config
from spacescale.presets import DEFAULT_PRESET
from spacescale.pretrain import parse_arguments

REPO = Path(__file__).parents[1]
DOCUMENTS = [
    "README.md", "docs/yeast.md", "docs/human_mouse.md", "docs/new_species.md",
    "docs/splits.md", "docs/coordinates.md", "docs/architecture.md", "docs/gallery.md",
    "docs/examples/README.md", "docs/evaluating.md", "docs/using.md", "docs/reliability.md",
    "docs/training_log.md", "docs/choosing.md", "docs/ablations.md", "docs/finetuning.md",
    "docs/objectives.md", "docs/results/experts.md", "docs/results/downstream.md",
    "slurm/README.md",
]  # fmt: skip
PRETRAIN = "spacescale/pretrain.py"
JOBS = ("slurm/pretrain_8xA40.sh", "slurm/pretrain_multinode.sh")


def read(document):
    """Text of a document without the @PLACEHOLDERS@ that stand in until results are known."""
    return re.sub(r"@[A-Z_]+@", "", (REPO / document).read_text(encoding="utf-8"))


def commands():
    """(document, words) of each command in the bash blocks, without [optional parts] and …."""
    for document in DOCUMENTS:
        for block in re.findall(r"^```bash\n(.*?)^```", read(document), re.DOTALL | re.MULTILINE):
            plain = re.sub(r"\[[^\]]*\]|…|\.\.\.", "", block.replace("\\\n", " "))
            for line in plain.splitlines():
                if words := shlex.split(line, comments=True):
                    yield document, words


def lines_with(marker):
    found = [(document, words) for document, words in commands() if marker in words]
    assert found, f"no document shows a command with {marker}"
    return found


def load_script(path):
    spec = importlib.util.spec_from_file_location(f"{Path(path).stem}_command", REPO / path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_pretrain(arguments):
    args = parse_arguments(arguments)
    build_config(args.preset or DEFAULT_PRESET, args.overrides)
    assert (REPO / args.deepspeed).is_file()


def test_shard_lines_parse():
    shard = load_script("data_prep/shard.py")
    for _, words in lines_with("data_prep/shard.py"):
        shard.parse_options(words[words.index("data_prep/shard.py") + 1 :])


def test_genome_lines_parse():
    genome = load_script("data_prep/genome.py")
    for _, words in lines_with("data_prep/genome.py"):
        genome.parse_options(words[words.index("data_prep/genome.py") + 1 :])


@pytest.mark.parametrize("name", ["import_tfrecords", "import_hdf5", "leakage", "verify"])
def test_lines_of_other_data_commands_parse(name):
    script = f"data_prep/{name}.py"
    for _, words in lines_with(script):
        load_script(script).parse_arguments(words[words.index(script) + 1 :])


def test_split_lines_parse():
    script = "data_prep/split.py"
    for _, words in lines_with(script):
        load_script(script).parse_settings(words[words.index(script) + 1 :])


def test_pretrain_lines_parse_and_their_overrides_exist():
    for _, words in lines_with(PRETRAIN):
        check_pretrain(words[words.index(PRETRAIN) + 1 :])


@pytest.mark.parametrize("job", JOBS)
def test_cluster_lines_parse(job):
    for _, words in lines_with(job):
        preset = ["--deepspeed", "ds_configs/zero2_moe.json"]  # the script's own
        check_pretrain([*preset, *words[words.index(job) + 1 :]])


def test_spacescale_lines_parse():
    for _, words in lines_with("spacescale"):
        assert words[0] == "spacescale"
        build_parser().parse_args(words[1:])


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", read(document))
    local = [link for link in links if "://" not in link]
    missing = [link for link in local if not ((REPO / document).parent / link).exists()]
    assert not missing


def file_map():
    """The paths in the first column of the README's table 'What is where'."""
    section = read("README.md").split("## What is where", 1)[1].split("\n## ", 1)[0]
    first_columns = re.findall(r"^\|([^|]+)\|", section, re.MULTILINE)
    return [path for column in first_columns for path in re.findall(r"`([^`]+)`", column)]


def test_the_file_map_names_what_exists():
    paths = file_map()
    assert paths
    assert [path for path in paths if not (REPO / path).exists()] == []


def test_the_file_map_names_every_folder_and_package():
    done = subprocess.run(["git", "ls-files"], cwd=REPO, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    files = [Path(line) for line in done.stdout.splitlines()]
    folders = {path.parts[0] for path in files if len(path.parts) > 1}
    packages = {f"spacescale/{path.parts[1]}" for path in files if path.match("spacescale/*/*.py")}
    named = {path.rstrip("/") for path in file_map()}
    assert packages <= named
    assert folders <= {path.split("/")[0] for path in named}

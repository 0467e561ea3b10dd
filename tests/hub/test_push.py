"""Folders put onto a Hub that stands on the loopback: in one commit, or not at all."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from small_models import WINDOW
from stand_in import TOKEN, Commit, Repository, StandIn
from tiny_models import some_codes

from spacescale.cli import main
from spacescale.errors import UserError
from spacescale.files import files_below
from spacescale.hub.push import push
from spacescale.model.space import Space

pytest.importorskip("huggingface_hub")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub, empty, which this process asks; waiting between attempts takes no time."""
    from huggingface_hub import constants

    server = StandIn()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix("https://huggingface.co")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    yield server
    server.shutdown()
    server.server_close()


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files_below(folder)}


def commits(hub, path="/commit/"):
    return [asked for asked in hub.asked if path in asked[1]]


def command(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["spacescale", "convert", *map(str, words)])
    return main()


def test_a_push_is_one_commit_that_loads_by_its_name(hub, hub_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert push(hub_folder, "lab/tiny").startswith(f"{hub.url}/lab/tiny/commit/")
    assert hub.repositories["lab/tiny"].files() == content(hub_folder)
    assert len(commits(hub)) == 1 and not hub.repositories["lab/tiny"].private
    codes = some_codes(1, WINDOW)
    with torch.no_grad():
        found = Space.from_pretrained("lab/tiny")({"finch": codes}).prediction["finch"]
        known = Space.from_pretrained(hub_folder)({"finch": codes}).prediction["finch"]
    assert torch.equal(found, known)
    with pytest.raises(UserError, match=r"^lab/tiny: .* no such branch, tag or commit$"):
        Space.from_pretrained("lab/tiny", revision="v9")
    with pytest.raises(UserError, match=r"^lab/none: .* no such repository"):
        Space.from_pretrained("lab/none")


@pytest.mark.long
def test_the_command_converts_and_pushes(exported, tmp_path):
    """A process of its own, which has all from its environment."""
    hub = StandIn()
    more = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    environment = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"} | more
    words = f"convert {exported} --to hub --out {tmp_path / 'out'} --push lab/tiny --private"
    done = subprocess.run(
        [sys.executable, "-m", "spacescale.cli", *words.split(), "--revision", "v1"],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path / 'out'}: converted\nlab/tiny: pushed: {hub.url}/lab/tiny" in done.stdout
    repository = hub.repositories["lab/tiny"]
    assert repository.private and not repository.files()
    assert repository.files("v1") == content(tmp_path / "out")


def test_a_folder_that_is_there_is_pushed(hub, hub_folder, monkeypatch, capsys):
    assert command(monkeypatch, hub_folder, "--to", "hub", "--push", "lab/tiny") == 0
    assert "lab/tiny: pushed: http" in capsys.readouterr().out
    assert hub.repositories["lab/tiny"].files() == content(hub_folder)


def test_what_it_replaces_vanishes_and_the_rest_stays(hub, hub_folder):
    older = dict.fromkeys(
        ["model-00001-of-00002.safetensors", "model.safetensors.index.json", "tracks/crow.tsv",
         "figure.png", ".gitattributes"], b"older",
    )  # fmt: skip
    hub.repositories["lab/tiny"] = Repository(branches={"main": [Commit(older)]})
    push(hub_folder, "lab/tiny")
    stays = {name: older[name] for name in ("figure.png", ".gitattributes")}
    assert hub.repositories["lab/tiny"].files() == content(hub_folder) | stays


@pytest.mark.parametrize(("place", "fault"), [("/large/", 0), ("/large/", 503), ("/commit/", 503)])
def test_a_push_that_breaks_off_leaves_nothing(hub, hub_folder, place, fault):
    hub.fault = lambda method, path: fault if place in path else None
    with pytest.raises(UserError, match=r"^lab/tiny: not pushed: [^\n]*; nothing of it is there"):
        push(hub_folder, "lab/tiny")
    assert commits(hub, place) and not hub.repositories
    before = Commit({"README.md": b"older"})
    hub.repositories["lab/tiny"] = Repository(branches={"main": [before]})
    for revision in (None, "v1"):
        with pytest.raises(UserError, match="nothing of it is there"):
            push(hub_folder, "lab/tiny", revision=revision)
        assert hub.repositories["lab/tiny"].branches == {"main": [before]}


def test_a_commit_whose_answer_is_lost_is_not_taken_away(hub, hub_folder):
    """It was taken, and the connection broke before the client heard so."""
    lost = []

    def fault(method, path):
        if "/commit/" in path and not lost:
            lost.append(path)
            hub.repositories["lab/tiny"].branches["main"].append(Commit({"config.json": b""}))
            return 0
        return None

    hub.fault = fault
    with pytest.raises(UserError, match=r"there is a new commit there, \w+, which may be this one"):
        push(hub_folder, "lab/tiny")
    assert "config.json" in hub.repositories["lab/tiny"].files()


def test_a_network_that_goes_leaves_an_empty_repository_and_says_so(hub, hub_folder):
    def fault(method, path):
        return 0 if commits(hub, "/large/") else None

    hub.fault = fault
    with pytest.raises(UserError, match="a repository without these files may be left there"):
        push(hub_folder, "lab/tiny")
    assert not hub.repositories["lab/tiny"].files()


def after(hub, method, end, then):
    """A fault that does `then` in the place of a request, the first time it comes."""
    done = []

    def fault(asked, path):
        if asked == method and path.endswith(end) and not done:
            done.append(path)
            return then()
        return None

    hub.fault = fault


def lost(act):
    """What was asked is done, and the answer never comes."""

    def then():
        act()
        return 0

    return then


def test_a_look_that_fails_after_the_repository_is_made(hub, hub_folder):
    def fault(method, path):
        looks = [path for asked, path in hub.asked if asked == "GET"]
        return 500 if method == "GET" and len(looks) == 2 and hub.repositories else None

    hub.fault = fault
    with pytest.raises(UserError, match=r"^lab/tiny: not pushed: .*; nothing of it is there"):
        push(hub_folder, "lab/tiny")
    assert not hub.repositories and not commits(hub)


def test_a_repository_whose_making_is_not_answered(hub, hub_folder):
    def made(*files):
        commit = Commit(dict.fromkeys(files, b"x"))
        hub.repositories["lab/tiny"] = Repository(branches={"main": [commit]})

    after(hub, "POST", "/create", lost(lambda: made(".gitattributes")))
    with pytest.raises(UserError, match="; nothing of it is there"):
        push(hub_folder, "lab/tiny")
    assert not hub.repositories
    after(hub, "POST", "/create", lambda: 0)  # it was not made, either
    with pytest.raises(UserError, match="; nothing of it is there"):
        push(hub_folder, "lab/tiny")
    after(hub, "POST", "/create", lost(lambda: made("of_others.md")))
    with pytest.raises(UserError, match=r"no commit was sent, and the repository, .* stays"):
        push(hub_folder, "lab/tiny")
    assert hub.repositories["lab/tiny"].files() == {"of_others.md": b"x"}


def test_a_repository_that_others_make_in_the_meantime_stays(hub, hub_folder):
    """The Hub says that it is there already: theirs, although it is still empty."""

    def others():
        hub.repositories["lab/tiny"] = Repository()

    after(hub, "POST", "/create", others)
    with pytest.raises(UserError, match="; nothing of it is there"):
        push(hub_folder, "lab/tiny")
    assert "lab/tiny" in hub.repositories


def test_a_branch_whose_making_is_not_answered(hub, hub_folder):
    before, others = Commit({"README.md": b"older"}), Commit({"of_others.md": b"x"})
    repository = Repository(branches={"main": [before]})
    hub.repositories["lab/tiny"] = repository
    after(hub, "POST", "/branch/v2", lost(lambda: repository.branches.update(v2=[before])))
    with pytest.raises(UserError, match="; nothing of it is there"):
        push(hub_folder, "lab/tiny", revision="v2")
    assert repository.branches == {"main": [before]}
    after(hub, "POST", "/branch/v2", lost(lambda: repository.branches.update(v2=[others])))
    with pytest.raises(UserError, match=r"no commit was sent, and the branch, .* stays"):
        push(hub_folder, "lab/tiny", revision="v2")
    assert repository.branches == {"main": [before], "v2": [others]} and not commits(hub)


def test_a_new_repository_without_its_branch_is_removed(hub, hub_folder):
    after(hub, "POST", "/branch/v2", lambda: 503)
    with pytest.raises(UserError, match="; nothing of it is there"):
        push(hub_folder, "lab/tiny", revision="v2")
    assert not hub.repositories


@pytest.mark.parametrize(("revision", "what"), [(None, "repository"), ("v2", "branch")])
def test_what_is_left_is_not_called_gone(hub, hub_folder, revision, what):
    """The network goes while it is made; or what was made cannot be removed."""
    if revision:
        hub.repositories["lab/tiny"] = Repository()
    making = "/branch/v2" if revision else "/create"
    hub.fault = lambda method, path: 0 if [a for a in hub.asked if a[1].endswith(making)] else None
    says = f"could not be seen: a {what} without these files may be left there. "
    with pytest.raises(UserError, match=says):
        push(hub_folder, "lab/tiny", revision=revision)
    hub.asked.clear()
    hub.fault = lambda method, path: 503 if method == "DELETE" or "/large/" in path else None
    says = f"could not be taken back: a {what} without these files may be left there. "
    with pytest.raises(UserError, match=says):
        push(hub_folder, "lab/tiny", revision=revision)
    assert (revision or "main") in hub.repositories["lab/tiny"].branches


@pytest.mark.parametrize(("refused", "more"), [(None, ""), (503, "; it could not be taken back.*")])
def test_a_repository_that_is_made_public_against_our_word(hub, hub_folder, refused, more):
    def fault(method, path):
        for repository in hub.repositories.values():
            repository.private = False
        return refused if method == "DELETE" else None

    hub.fault = fault
    with pytest.raises(UserError, match=f"is public, and --private was asked for{more}$"):
        push(hub_folder, "lab/tiny", private=True)
    assert bool(hub.repositories) == bool(refused) and not commits(hub)


def test_weights_of_others_stay(hub, hub_folder):
    names = [
        "lora/adapter_model.safetensors", "adapter_model.safetensors", "old/model.safetensors",
        "pytorch_model.bin", "tracks/old/crow.tsv", "model-00001-of-00002.safetensors.md",
    ]  # fmt: skip
    older = dict.fromkeys(names, b"of others")
    hub.repositories["lab/tiny"] = Repository(branches={"main": [Commit(older)]})
    push(hub_folder, "lab/tiny")
    assert hub.repositories["lab/tiny"].files() == content(hub_folder) | older


def test_only_what_is_part_of_such_a_folder_is_pushed(hub, hub_folder, tmp_path, caplog):
    folder = shutil.copytree(hub_folder, tmp_path / "tiny")
    (folder / "figures").mkdir()
    (folder / "figures" / "tracks.png").write_bytes(b"figure")
    whole = content(folder)
    more = [".env", "notes.tmp", "sub/config.json", "tracks/.env", "figures/.env", "optimizer.pt"]
    for name in more:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("HF_TOKEN=secret")
    push(folder, "lab/tiny")
    assert hub.repositories["lab/tiny"].files() == whole
    (line,) = [r.getMessage() for r in caplog.records if r.name == "spacescale.hub.push"]
    left_out = ".env, figures/.env, notes.tmp, optimizer.pt, sub/config.json and 1 more"
    assert line == f"{folder}: not pushed, as no part of it: {left_out}"


def test_weights_of_other_names_are_not_left_out_silently(hub, hub_folder, tmp_path):
    folder = shutil.copytree(hub_folder, tmp_path / "tiny")
    names = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    index = {"weight_map": dict.fromkeys(names, "part.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"tiny/part.safetensors: weights named as"):
        push(folder, "lab/tiny")
    assert not hub.asked


def test_without_a_network_one_line_says_so(hub, hub_folder, monkeypatch, capsys):
    from huggingface_hub import constants

    hub.shutdown()
    hub.server_close()
    words = (hub_folder, "--to", "hub", "--push", "lab/tiny")
    assert command(monkeypatch, *words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: lab/tiny: not pushed: ") and "refused" in line
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert command(monkeypatch, *words) == 2
    assert "not pushed: HF_HUB_OFFLINE is set" in capsys.readouterr().err


@pytest.mark.parametrize("private", [False, True])
def test_rights_that_do_not_suffice(hub, hub_folder, monkeypatch, private):
    hub.repositories["lab/other"] = Repository()
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    with pytest.raises(UserError, match=r"lab/tiny: not pushed: no valid login \(`hf auth"):
        push(hub_folder, "lab/tiny", private)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.fault = lambda method, path: 403 if method == "POST" else None
    for name in ("lab/tiny", "lab/other"):
        with pytest.raises(UserError, match=r"no right to do so: refused by rule 403;|is public"):
            push(hub_folder, name, private)
    assert set(hub.repositories) == {"lab/other"} and not hub.repositories["lab/other"].files()


def test_private_weights_never_become_public(hub, hub_folder):
    hub.repositories["lab/tiny"] = Repository(private=False)
    with pytest.raises(UserError, match=r"^lab/tiny: is public, and --private was asked for$"):
        push(hub_folder, "lab/tiny", private=True)
    assert not commits(hub) and "lab/tiny" in hub.repositories


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--to", "hub", "--push", "tiny"), "--push 'tiny': expected ORG/NAME"),
        (("--to", "hub", "--push", "lab/a/b"), "--push 'lab/a/b': expected ORG/NAME"),
        (("--to", "hub", "--push", "lab/a--b"), "--push 'lab/a--b': "),
        (("--to", "hub", "--push", "lab/-tiny"), "--push 'lab/-tiny': "),
        (("--push", "lab/tiny", "--out", "out"), "--push lab/tiny: needs --to hub"),
        (("--to", "hub", "--private", "--out", "out"), "are options of --push"),
        (("--to", "hub", "--revision", "v1", "--out", "out"), "are options of --push"),
        (("--to", "hub"), "--out: needed, unless a folder made by --to hub is pushed"),
        (("--to", "hub", "--push", "lab/tiny"), "--out: needed, unless"),
    ],
)
def test_what_is_asked_wrongly_is_said_before_any_work(
    hub, exported, words, message, monkeypatch, capsys, tmp_path
):
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch, exported, *words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert not hub.asked and not list(tmp_path.iterdir())


def test_a_folder_that_is_not_whole_is_not_pushed(hub, hub_folder, tmp_path):
    for number, (name, message) in enumerate(
        [
            ("modeling_space.py", "sha256 .* it was changed"),
            ("config.json", "not valid JSON"),
            ("model.safetensors", "cannot be read"),
        ]
    ):
        folder = shutil.copytree(hub_folder, tmp_path / str(number))
        (folder / name).write_bytes((folder / name).read_bytes()[:-5])
        with pytest.raises(UserError, match=rf"{number}/{name}: .*{message}"):
            push(folder, "lab/tiny")
        (folder / name).unlink()
        with pytest.raises(UserError, match=rf"{number}/{name}: no such file"):
            push(folder, "lab/tiny")
    assert not hub.asked

"""The part of the Hub's HTTP interface that pushes and loads use, in memory, on the loopback."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_lab"
Files = dict[str, bytes]


@dataclass
class Commit:
    """All files, and who came before."""

    files: Files
    parent: str = ""

    @property
    def sha(self) -> str:
        content = "".join(n + hashlib.sha1(raw).hexdigest() for n, raw in self.files.items())
        return hashlib.sha1((self.parent + content).encode()).hexdigest()


@dataclass
class Repository:
    """Branches are lists of commits, the newest last."""

    private: bool = False
    branches: dict[str, list[Commit]] = field(default_factory=lambda: {"main": [Commit({})]})

    def files(self, branch: str = "main") -> Files:
        return self.branches[branch][-1].files

    def found(self, revision: str) -> Commit | None:
        """The newest commit of a branch, or the one of a hash."""
        if revision in self.branches:
            return self.branches[revision][-1]
        known = (commit for commits in self.branches.values() for commit in commits)
        return next((commit for commit in known if commit.sha == revision), None)


class StandIn(ThreadingHTTPServer):
    """`repositories` by name; `fault(method, path)` may give a status to answer with, or 0 to
    break the connection off; `asked` lists what was asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []
        self.fault: Callable[[str, str], int | None] = lambda method, path: None
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def handle_error(self, request, client_address) -> None:
        """A client that was broken off is no error of ours."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StandIn

    def log_message(self, format, *args) -> None:
        pass

    def _handle(self) -> None:
        path = urlsplit(self.path).path
        self.server.asked.append((self.command, path))
        fault = self.server.fault(self.command, path)
        if fault == 0:  # after a part of what is sent was read
            self.rfile.read(min(100, int(self.headers.get("Content-Length", 0))))
            self.close_connection = True
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if fault:
            return self._answer(fault, {"error": f"refused by rule {fault}\nand more"})
        for pattern, answer, wants_login in _ROUTES:
            if match := re.fullmatch(pattern, f"{self.command} {path}"):
                if wants_login and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                    return self._answer(401, {"error": "Invalid credentials"})
                return answer(self, body, *map(unquote, match.groups()))
        self._answer(404, {"error": f"unknown: {self.command} {path}"})

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle

    def _answer(self, status: int, content=None, code: str = "", **headers: str) -> None:
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        with suppress(BrokenPipeError, ConnectionResetError):
            self.send_response(status)
            if code:
                self.send_header("X-Error-Code", code)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(raw)

    def _info(self, body: bytes, name: str, revision: str | None = None) -> None:
        repository = self.server.repositories.get(name)
        if repository is None:
            return self._answer(404, {"error": "Repository not found"}, "RepoNotFound")
        found = repository.found(revision or "main")
        if found is None:
            return self._answer(404, {"error": "Invalid rev id"}, "RevisionNotFound")
        self._answer(200, {
            "id": name, "modelId": name, "sha": found.sha, "private": repository.private,
            "tags": [], "downloads": 0, "likes": 0,
            "siblings": [{"rfilename": path} for path in found.files],
        })  # fmt: skip

    def _tree(self, body: bytes, name: str, revision: str) -> None:
        found = self.server.repositories[name].found(revision)
        assert found
        self._answer(200, [
            {"type": "file", "path": path, "size": len(raw), "oid": hashlib.sha1(raw).hexdigest()}
            for path, raw in found.files.items()
        ])  # fmt: skip

    def _resolve(self, body: bytes, name: str, revision: str, path: str) -> None:
        found = self.server.repositories[name].found(revision)
        assert found
        if path not in found.files:
            return self._answer(404, {"error": "Entry not found"}, "EntryNotFound")
        raw = found.files[path]
        tag = f'"{hashlib.sha1(raw).hexdigest()}"'
        self._answer(200, raw, ETag=tag, X_Repo_Commit=found.sha)

    def _create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.server.repositories:
            return self._answer(409, {"error": "You already created this model repo"})
        private = asked.get("private") or asked.get("visibility") == "private"
        self.server.repositories[name] = Repository(bool(private))
        self._answer(200, {"url": f"{self.server.url}/{name}", "id": name, "name": name})

    def _delete(self, body: bytes) -> None:
        asked = json.loads(body)
        del self.server.repositories[f"{asked['organization']}/{asked['name']}"]
        self._answer(200, {})

    def _branch(self, body: bytes, name: str, branch: str) -> None:
        branches = self.server.repositories[name].branches
        if self.command == "DELETE":
            del branches[branch]
        else:
            branches[branch] = branches["main"][-1:]
        self._answer(200, {})

    def _validate(self, body: bytes) -> None:
        begins = json.loads(body)["content"].startswith("---\n")
        self._answer(200 if begins else 400, {"errors": [{"message": "no metadata"}]})

    def _preupload(self, body: bytes, name: str, revision: str) -> None:
        self._answer(200, {"files": [
            {
                "path": file["path"], "shouldIgnore": False,
                "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
            }
            for file in json.loads(body)["files"]
        ]})  # fmt: skip

    def _batch(self, body: bytes, name: str) -> None:
        self._answer(200, {"transfer": "basic", "objects": [
            {**o, "actions": {"upload": {"href": f"{self.server.url}/large/{o['oid']}"}}}
            for o in json.loads(body)["objects"]
        ]})  # fmt: skip

    def _upload(self, body: bytes, oid: str) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.large[oid] = body
        self._answer(200, {})

    def _commit(self, body: bytes, name: str, branch: str) -> None:
        commits = self.server.repositories[name].branches[branch]
        head = commits[-1]
        files = dict(head.files)
        for row in map(json.loads, body.splitlines()):
            value = row["value"]
            if row["key"] == "header":
                if value.get("parentCommit") not in (None, head.sha):
                    return self._answer(412, {"error": "A commit has happened since"})
            elif row["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif row["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
            else:
                del files[value["path"]]
        commits.append(Commit(files, head.sha))
        sha = commits[-1].sha
        url = f"{self.server.url}/{name}/commit/{sha}"
        self._answer(200, {"commitUrl": url, "commitOid": sha, "hookOutput": "", "success": True})


_NAME = "([^/]+/[^/]+)"
_ROUTES: tuple[tuple[str, Callable[..., None], bool], ...] = (
    (f"GET /api/models/{_NAME}", _Handler._info, False),
    (f"GET /api/models/{_NAME}/revision/([^/]+)", _Handler._info, False),
    (f"GET /api/models/{_NAME}/tree/([^/]+)", _Handler._tree, False),
    (f"(?:GET|HEAD) /{_NAME}/resolve/([^/]+)/(.+)", _Handler._resolve, False),
    ("POST /api/repos/create", _Handler._create, True),
    ("DELETE /api/repos/delete", _Handler._delete, True),
    (f"(?:POST|DELETE) /api/models/{_NAME}/branch/([^/]+)", _Handler._branch, True),
    ("POST /api/validate-yaml", _Handler._validate, False),
    (f"POST /api/models/{_NAME}/preupload/([^/]+)", _Handler._preupload, True),
    (rf"POST /{_NAME}\.git/info/lfs/objects/batch", _Handler._batch, True),
    ("PUT /large/(.+)", _Handler._upload, False),
    (f"POST /api/models/{_NAME}/commit/([^/]+)", _Handler._commit, True),
)

"""
A Hub on 127.0.0.1, for tests: enough of the HTTP interface for the real clients of `huggingface_hub`, `transformers` and
`datasets`, and faults on demand. Repositories live in memory, a branch each, one commit after another.

    with LoopbackHub() as hub:
        hub.fail("PUT", "/lfs/", times=1)
        subprocess.run([...], env=hub.environment(tmp_path))

Clients read their endpoint when they are imported, so they run in processes of their own.
"""

import base64
import hashlib
import json
import os
import re
import threading
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


LARGE = 10_000  # bytes from which a file goes by LFS, unless git would keep it as text
TEXT = (".py", ".md", ".json", ".yaml", ".jsonl", ".txt", "SHA256SUMS")
DATE = "2026-01-01T00:00:00.000Z"


@dataclass
class Repository:
    """Commits of `main`, oldest first: (SHA, path -> content). The first is empty, as the Hub's is but for one file."""

    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=lambda: [("0" * 40, {})])
    large: set[str] = field(default_factory=set)
    messages: list[str] = field(default_factory=list)
    private: bool = False

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1][1]

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if revision == "main":
            return self.commits[-1]
        return next((commit for commit in self.commits if commit[0] == revision), None)


@dataclass
class Fault:
    """What happens, `times` times, to requests of `method` whose path matches `pattern`."""

    method: str
    pattern: str
    times: int
    status: int | None = None  # answer this
    cut_after: int | None = None  # close the connection after so many bytes of the body
    delay: float = 0.0  # wait first
    hang_up: str | None = None  # close the connection without an answer, "before" doing what was asked, or "after"


class LoopbackHub:
    """
    Attributes:
        repositories (`dict[tuple[str, str], Repository]`): By kind (`"model"`, `"dataset"`) and id.
        requests (`list[tuple[str, str, int]]`): Method, path with query and status of each answer, in order.
    """

    def __init__(self):
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, int]] = []
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def environment(self, home) -> dict[str, str]:
        """For a client's process: this endpoint, a cache of its own in `home`, LFS and not Xet for uploads."""
        dropped = ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_MODULES_CACHE", "HF_DATASETS_CACHE", "HF_DATASETS_OFFLINE")
        kept = {key: value for key, value in os.environ.items() if key not in dropped and "proxy" not in key.lower()}
        return {
            **kept,
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_TOKEN": "hf_loopback",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }

    def fail(self, method: str, pattern: str, times: int = 1, **what):
        """`status=500` (the default), `cut_after=bytes`, `delay=seconds` or `hang_up="before"`; see [`Fault`]."""
        if not what:
            what = {"status": 500}
        self.faults.append(Fault(method, pattern, times, **what))

    def add(self, kind: str, repo_id: str, files: dict[str, bytes]) -> Repository:
        """A repository with one commit, made without a client."""
        repository = self.repositories[kind, repo_id] = Repository()
        repository.large |= {path for path, content in files.items() if _is_large(path, len(content))}
        self.commit(repository, files, "added")
        return repository

    def commit(self, repository: Repository, files: dict[str, bytes], message: str) -> str:
        digest = hashlib.sha1(repository.commits[-1][0].encode() + message.encode())
        for path, content in sorted(files.items()):
            digest.update(path.encode() + hashlib.sha1(content).digest())
        repository.commits.append((digest.hexdigest(), files))
        repository.messages.append(message)
        return digest.hexdigest()

    def take_fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times and fault.method == method and re.search(fault.pattern, path):
                    fault.times -= 1
                    return fault
        return None


def _is_large(path: str, size: int) -> bool:
    return size >= LARGE and not path.endswith(TEXT)


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _oid(content: bytes, large: bool) -> str:
    return hashlib.sha256(content).hexdigest() if large else _git_oid(content)


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    # ----- plumbing

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def answer(self, status: int, content: bytes = b"", headers: dict[str, str] | None = None, cut: int | None = None):
        self.hub.requests.append((self.command, self.path, status))
        if self.hang_up:
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content if cut is None else content[:cut])
        if cut is not None:
            self.close_connection = True

    def json(self, value, status: int = 200):
        self.answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def missing(self, code: str):
        self.answer(404, b"{}", {"X-Error-Code": code, "X-Error-Message": code, "Content-Type": "application/json"})

    def handle_request(self):
        content = self.body()
        url = urlsplit(self.path)
        path = unquote(url.path)
        fault = self.hub.take_fault(self.command, path)
        self.cut, self.hang_up = None, False
        if fault is not None:
            time.sleep(fault.delay)
            self.cut, self.hang_up = fault.cut_after, fault.hang_up is not None
            if fault.hang_up == "before":
                return self.answer(0)
            if fault.status is not None:
                return self.json({"error": HTTPStatus(fault.status).phrase}, fault.status)
        for method, pattern, handler in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in method:
                with self.hub.lock:
                    pass  # a commit under way is finished first
                return handler(self, content, parse_qs(url.query), **match.groupdict())
        return self.missing("NotFound")

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def repository(self, kind: str, repo_id: str) -> Repository | None:
        found = self.hub.repositories.get((kind.removesuffix("/").removesuffix("s") or "model", repo_id))
        if found is None:
            self.missing("RepoNotFound")
        return found

    # ----- writing

    def create(self, content, query):
        wish = json.loads(content)
        kind, repo_id = wish.get("type") or "model", f"{wish['organization']}/{wish['name']}"
        url = f"{self.hub.endpoint}/{'datasets/' if kind == 'dataset' else ''}{repo_id}"
        exists = (kind, repo_id) in self.hub.repositories
        if not exists:
            private = wish.get("private") is True or wish.get("visibility") == "private"
            self.hub.repositories[kind, repo_id] = Repository(private=private)
        self.json({"url": url, "name": repo_id, "id": repo_id}, 409 if exists else 200)

    def validate_yaml(self, content, query):
        self.json({"errors": [], "warnings": []})

    def preupload(self, content, query, kind, repo_id, revision):
        if (repository := self.repository(kind, repo_id)) is not None:
            files = []
            for file in json.loads(content)["files"]:
                there = repository.files.get(file["path"])
                mode = "lfs" if _is_large(file["path"], file["size"]) else "regular"
                oid = None if there is None else _oid(there, file["path"] in repository.large)
                files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
            self.json({"files": files})

    def lfs_batch(self, content, query, kind, repo_id):
        objects = []
        for item in json.loads(content)["objects"]:
            entry = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.hub.blobs:
                entry["actions"] = {"upload": {"href": f"{self.hub.endpoint}/lfs/{item['oid']}", "header": {}}}
            objects.append(entry)
        self.json({"transfer": "basic", "objects": objects})

    def lfs_put(self, content, query, oid):
        if hashlib.sha256(content).hexdigest() != oid:
            return self.json({"error": "content does not match its SHA-256"}, 400)
        self.hub.blobs[oid] = content
        return self.answer(200)

    def commit(self, content, query, kind, repo_id, revision):
        if (repository := self.repository(kind, repo_id)) is None:
            return None
        message, files, large = "", dict(repository.files), set(repository.large)
        for line in content.splitlines():
            operation = json.loads(line)
            key, value = operation["key"], operation["value"]
            if key == "header":
                message = value["summary"]
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
                large.discard(value["path"])
            elif key == "lfsFile":
                if value["oid"] not in self.hub.blobs:
                    return self.json({"error": f"no LFS object for {value['path']}"}, 400)
                files[value["path"]] = self.hub.blobs[value["oid"]]
                large.add(value["path"])
            elif key == "deletedFile":
                del files[value["path"]]
            else:
                return self.json({"error": f"cannot {key}"}, 400)
        with self.hub.lock:
            repository.large = large
            sha = self.hub.commit(repository, files, message)
        return self.json(
            {"success": True, "commitUrl": f"{self.hub.endpoint}/{repo_id}/commit/{sha}", "commitOid": sha}
        )

    # ----- reading

    def info(self, content, query, kind, repo_id, revision=None):
        if (repository := self.repository(kind, repo_id)) is None:
            return None
        if (commit := repository.at(revision or "main")) is None:
            return self.missing("RevisionNotFound")
        return self.json(
            {
                "_id": "0",
                "id": repo_id,
                "modelId": repo_id,
                "author": repo_id.split("/")[0],
                "sha": commit[0],
                "lastModified": DATE,
                "createdAt": DATE,
                "private": repository.private,
                "gated": False,
                "disabled": False,
                "downloads": 0,
                "likes": 0,
                "tags": [],
                "siblings": [{"rfilename": path} for path in sorted(commit[1])],
            }
        )

    def entry(self, repository: Repository, path: str, content: bytes) -> dict:
        entry = {"type": "file", "path": path, "size": len(content), "oid": _git_oid(content)}
        if path in repository.large:
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return entry

    def folder(self, path: str) -> dict:
        return {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()}

    def tree(self, content, query, kind, repo_id, revision, path=""):
        if (repository := self.repository(kind, repo_id)) is None:
            return None
        if (commit := repository.at(revision)) is None:
            return self.missing("RevisionNotFound")
        prefix = f"{path.strip('/')}/" if path and path.strip("/") else ""
        deep = query.get("recursive", ["false"])[0].lower() in ("true", "1")
        entries, folders = [], set()
        for name, data in sorted(commit[1].items()):
            if not name.startswith(prefix):
                continue
            parents = name.removeprefix(prefix).split("/")[:-1]
            for depth in range(1, len(parents) + 1 if deep else min(len(parents), 1) + 1):
                folders.add(prefix + "/".join(parents[:depth]))
            if deep or not parents:
                entries.append(self.entry(repository, name, data))
        if prefix and not entries and not folders:
            return self.missing("EntryNotFound")
        return self.json([self.folder(name) for name in sorted(folders)] + entries)

    def paths_info(self, content, query, kind, repo_id, revision):
        if (repository := self.repository(kind, repo_id)) is None:
            return None
        if (commit := repository.at(revision)) is None:
            return self.missing("RevisionNotFound")
        is_json = "json" in self.headers.get("Content-Type", "")
        wish = json.loads(content)["paths"] if is_json else parse_qs(content.decode())["paths"]
        entries = []
        for path in [wish] if isinstance(wish, str) else wish:
            if path in commit[1]:
                entries.append(self.entry(repository, path, commit[1][path]))
            elif any(name.startswith(f"{path}/") for name in commit[1]):
                entries.append(self.folder(path))
        return self.json(entries)

    def refs(self, content, query, kind, repo_id):
        if (repository := self.repository(kind, repo_id)) is not None:
            branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": repository.commits[-1][0]}
            self.json({"branches": [branch], "converts": [], "tags": []})

    def auth_check(self, content, query, kind, repo_id):
        if self.repository(kind, repo_id) is not None:
            self.json({})

    def resolve(self, content, query, repo_id, revision, path, kind=""):
        if (repository := self.repository(kind or "", repo_id)) is None:
            return None
        if (commit := repository.at(revision)) is None:
            return self.missing("RevisionNotFound")
        if path not in commit[1]:
            return self.answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit[0]})
        data = commit[1][path]
        large = path in repository.large
        etag = _oid(data, large)
        headers = {"X-Repo-Commit": commit[0], "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if large:
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(data))}
        span = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not span:
            return self.answer(200, data, headers, self.cut)
        first, last = span.groups()
        start = int(first) if first else max(len(data) - int(last), 0)
        end = min(int(last), len(data) - 1) if first and last else len(data) - 1
        if start >= len(data):
            return self.answer(416, b"", {**headers, "Content-Range": f"bytes */{len(data)}"})
        headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
        return self.answer(206, data[start : end + 1], headers, self.cut)


_API = r"/api/(?P<kind>models|datasets)/(?P<repo_id>[^/]+/[^/]+)"
_ROUTES = (
    (("POST",), r"/api/repos/create", _Handler.create),
    (("POST",), r"/api/validate-yaml", _Handler.validate_yaml),
    (("POST",), _API + r"/preupload/(?P<revision>[^/]+)", _Handler.preupload),
    (("POST",), _API + r"/commit/(?P<revision>[^/]+)", _Handler.commit),
    (("POST",), _API + r"/paths-info/(?P<revision>[^/]+)", _Handler.paths_info),
    (("GET",), _API + r"/tree/(?P<revision>[^/]+)(?P<path>/.*)?", _Handler.tree),
    (("GET",), _API + r"/refs", _Handler.refs),
    (("GET",), _API + r"/auth-check", _Handler.auth_check),
    (("GET", "HEAD"), _API + r"(?:/revision/(?P<revision>[^/]+))?", _Handler.info),
    (("POST",), r"/(?P<kind>datasets/)?(?P<repo_id>[^/]+/[^/]+)\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    (("PUT",), r"/lfs/(?P<oid>[0-9a-f]{64})", _Handler.lfs_put),
    (
        ("GET", "HEAD"),
        r"/(?P<kind>datasets/)?(?P<repo_id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)",
        _Handler.resolve,
    ),
)

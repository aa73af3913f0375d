"""A stand-in of the hub on this machine: the few requests that `huggingface_hub` makes to read and write models.

Files are bytes in memory. Interface: huggingface_hub 2.4 (hf_api.py, file_download.py, _commit_api.py, lfs.py).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_test"


class Hub:
    """What the stand-in holds.

    Attributes:
        models: name -> revision -> file -> bytes; a revision's commit is the hash of its name.
        requests: what was asked for, "METHOD path". broken: files that are cut off in the middle once.
        messages: of commits.
    """

    def __init__(self) -> None:
        self.models: dict[str, dict[str, dict[str, bytes]]] = {}
        self.requests: list[str] = []
        self.ranges: list[str] = []
        self.broken: set[str] = set()
        self.messages: list[str] = []
        self.blobs: dict[str, bytes] = {}
        self.address = ""

    def commit(self, revision: str) -> str:
        """The hash that stands for a revision."""
        return hashlib.sha1(revision.encode()).hexdigest()

    def files(self, model: str, revision: str) -> dict[str, bytes] | None:
        """By the name of a revision or its commit."""
        found = self.models.get(model, {})
        return next((files for name, files in found.items() if revision in (name, self.commit(name))), None)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def _send(self, status: int, body: Any = b"", headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _missing(self, code: str) -> None:
        self._send(404, {"error": code}, {"X-Error-Code": code})

    def _read(self) -> None:
        path = self.path.partition("?")[0]
        self.hub.requests.append(f"{self.command} {path}")
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(?:revision|tree)/([^/]+)/?", path):
            model, revision = found.groups()
            files = self.hub.files(model, revision)
            if files is None:
                self._missing("RevisionNotFound" if model in self.hub.models else "RepoNotFound")
            elif "/tree/" in path:
                rows = [{"type": "file", "path": name, "size": len(data), "oid": name} for name, data in files.items()]
                self._send(200, rows)
            else:
                siblings = [{"rfilename": name} for name in files]
                commit = next(self.hub.commit(name) for name, held in self.hub.models[model].items() if held is files)
                self._send(200, {"id": model, "modelId": model, "sha": commit, "siblings": siblings})
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            model, revision, name = found.groups()
            data = (self.hub.files(model, revision) or {}).get(name)
            if data is None:
                self._missing("EntryNotFound")
            else:
                self._file(name, revision, data)
        else:
            self._missing("RepoNotFound")

    def _file(self, name: str, commit: str, data: bytes) -> None:
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        first = 0
        if wanted := self.headers.get("Range"):
            self.hub.ranges.append(f"{name} {wanted}")
            first = int(wanted.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        if self.command == "GET" and name in self.hub.broken:
            self.hub.broken.discard(name)
            self.send_response(200)
            for key, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        self._send(206 if wanted else 200, data[first:], headers)

    do_GET = do_HEAD = _read

    def do_PUT(self) -> None:
        self.hub.requests.append(f"PUT {self.path}")
        data = self._body()
        self.hub.blobs[hashlib.sha256(data).hexdigest()] = data
        self._send(200)

    def do_POST(self) -> None:
        path, body = self.path.partition("?")[0], self._body()
        self.hub.requests.append(f"POST {path}")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._send(401, {"error": "Invalid credentials"}, {"X-Error-Message": "Invalid credentials"})
        elif path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}"
            status = 409 if name in self.hub.models else 200
            self.hub.models.setdefault(name, {"main": {}})
            self._send(status, {"url": f"{self.hub.address}/{name}", "name": name})
        elif path == "/api/validate-yaml":
            self._send(200, {"errors": [], "warnings": []})
        elif "/preupload/" in path:
            modes = [
                {
                    "path": item["path"],
                    "uploadMode": "lfs" if item["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for item in json.loads(body)["files"]
            ]
            self._send(200, {"files": modes})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**item, "actions": {"upload": {"href": f"{self.hub.address}/blobs/{item['oid']}", "header": {}}}}
                for item in json.loads(body)["objects"]
            ]
            self._send(200, {"transfer": "basic", "objects": objects}, {"Content-Type": "application/json"})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/([^/]+)", path):
            self._commit(found[1], found[2], [json.loads(line) for line in body.splitlines()])
        else:
            self._missing("RepoNotFound")

    def _commit(self, model: str, revision: str, lines: list[dict[str, Any]]) -> None:
        files = self.hub.models[model].setdefault(revision, {})
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.hub.messages.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        commit = self.hub.commit(revision)
        self._send(200, {"commitOid": commit, "commitUrl": f"{self.hub.address}/{model}/commit/{commit}"})


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub at `address` until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

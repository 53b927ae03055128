"""A small Hugging Face Hub on loopback, which serves folders as model repositories."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + 34 * "0"


@contextmanager
def serving(root: Path) -> Iterator[str]:
    """Serves `root/<owner>/<repo>/...` and yields the endpoint for `HF_ENDPOINT`."""

    class Handler(_Hub):
        folder = root

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Hub(BaseHTTPRequestHandler):
    folder: Path
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base's name
        """Nothing: the tests are silent."""

    def _answer(self, *, with_body: bool) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self._answer_api(parts[2:], with_body=with_body)
        else:
            self._answer_file(parts, with_body=with_body)

    def _answer_api(self, parts: list[str], *, with_body: bool) -> None:
        repo = self.folder.joinpath(*parts[:2])
        if not repo.is_dir():
            self._send(404, b"{}", with_body=with_body, error="RepoNotFound")
            return
        paths = sorted(path for path in repo.rglob("*") if path.is_file())
        names = [path.relative_to(repo).as_posix() for path in paths]
        if parts[2:3] == ["tree"]:
            content: object = [
                {"type": "file", "path": name, "oid": _etag(path), "size": path.stat().st_size}
                for name, path in zip(names, paths)
            ]
        else:
            siblings = [{"rfilename": name} for name in names]
            content = {"id": "/".join(parts[:2]), "sha": COMMIT, "siblings": siblings}
        body = json.dumps(content).encode()
        self._send(200, body, with_body=with_body, kind="application/json")

    def _answer_file(self, parts: list[str], *, with_body: bool) -> None:
        repo, path = self.folder.joinpath(*parts[:2]), self.folder.joinpath(*parts[:2], *parts[4:])
        if not repo.is_dir():
            self._send(404, b"", with_body=with_body, error="RepoNotFound")
        elif parts[2:3] != ["resolve"] or not path.is_file():
            self._send(404, b"", with_body=with_body, error="EntryNotFound")
        else:
            self._send(200, path.read_bytes(), with_body=with_body, etag=_etag(path))

    def _send(
        self,
        status: int,
        body: bytes,
        *,
        with_body: bool,
        kind: str = "application/octet-stream",
        error: str | None = None,
        etag: str | None = None,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", COMMIT)
        if error is not None:
            self.send_header("X-Error-Code", error)
        if etag is not None:
            self.send_header("ETag", f'"{etag}"')
        self.end_headers()
        if with_body:
            self.wfile.write(body)


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()

"""The Hub as a test holds it: its address, repositories, tokens, faults and log."""

import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

from .connection import Connection
from .faults import Fault, How, fault_of
from .lfs import Grant
from .repository import Mode, Repository, first_commit, folder_commit
from .routes import Kind
from .tokens import Token
from .traffic import Request

OWNER = "hf_owner"
"""A token that may change `owner/...`."""
READER = "hf_reader"
"""The same user's token for reading."""
STRANGER = "hf_stranger"
"""Another user's token, for `stranger/...`."""
TOKENS = {
    OWNER: Token("owner"),
    READER: Token("owner", "read"),
    STRANGER: Token("stranger"),
}


class Hub:
    """A Hub that runs. `hub()` makes one."""

    endpoint: str
    mode: Mode
    tokens: dict[str, Token]
    repositories: dict[str, Repository]
    """By `owner/name`."""
    requests: list[Request]
    """All requests so far, in the order of their answers. May be cleared."""
    grants: dict[str, Grant]
    """What may be uploaded, by the secret in its address."""
    xet_store: Path | None
    """Where the client may keep chunks; None for plain LFS. What is sent there is not seen here, so
    `lfs_objects` of the repository have to hold it beforehand."""
    lock: threading.RLock
    """Held while a request has its effect."""

    def __init__(self, endpoint: str, mode: Mode, tokens: Mapping[str, Token]) -> None:
        self.endpoint = endpoint
        self.mode = mode
        self.tokens = dict(tokens)
        self.repositories = {}
        self.requests = []
        self.grants = {}
        self.xet_store = None
        self.lock = threading.RLock()
        self._faults: list[Fault] = []
        self._delays: dict[str, float] = {}

    def add_repository(
        self,
        repo_id: str,
        folder: Path | None = None,
        *,
        private: bool = False,
        gated: bool = False,
    ) -> Repository:
        """A new repository, with a folder's files or with the Hub's first commit alone."""
        first = first_commit(self.mode) if folder is None else folder_commit(folder, self.mode)
        repository = Repository(repo_id, first, private=private, gated=gated)
        self.repositories[repo_id] = repository
        return repository

    def environment(self, home: Path, token: str | None = None) -> dict[str, str]:
        """The environment of a process whose `huggingface_hub` is to talk to this Hub alone.

        Args:
            home: a folder of the test's own, for the client's cache and settings.
            token: who the client is; nobody by default.
        """
        others = ("HF_", "HUGGINGFACE_", "HUGGING_FACE_")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(others)}
        environment |= {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }
        if self.mode == "lfs" and self.xet_store is None:  # the client would take xet for granted
            environment["HF_HUB_DISABLE_XET"] = "1"
        if token is not None:
            environment["HF_TOKEN"] = token
        return environment

    def requests_of(self, *kinds: Kind) -> list[Request]:
        """The requests of some kinds, in order."""
        return [request for request in self.requests if request.kind in kinds]

    def fail(
        self, kind: Kind | Literal["any"], how: How = 501, *, nth: int = 1, times: int = 1
    ) -> None:
        """Lets requests of a kind fail: the nth from now on, and the next ones up to `times`.

        The client gives up at once on most statuses, such as 501. It tries again up to five times,
        1 s apart, after 408, 429, 500, 502, 503 and 504, and 1, 2, 4, 8 and 8 s apart after a
        connection that was cut: `times=6` outlasts it. It never tries again: `create_repo`, `info`,
        `validate_yaml`, and a `commit` unless `upload_folder` makes it with xet installed.
        """
        self._faults.append(Fault(kind, how, nth, times))

    def slow(self, kind: Kind, seconds: float) -> None:
        """Lets requests of a kind wait before they are dealt with."""
        self._delays[kind] = seconds

    def heal(self) -> None:
        """Ends all faults and delays."""
        self._faults.clear()
        self._delays.clear()

    def meet(self, kind: Kind) -> How | None:
        """Waits as long as a request of a kind has to, and says what then goes wrong with it."""
        time.sleep(self._delays.get(kind, 0))
        with self.lock:
            return fault_of(self._faults, kind)

    def log(
        self, method: str, path: str, kind: Kind, status: int | None, bytes_received: int
    ) -> None:
        """Adds a request to the log."""
        self.requests.append(Request(method, path, kind, status, bytes_received))


@contextmanager
def hub(
    root: Path | None = None, *, mode: Mode = "regular", tokens: Mapping[str, Token] = TOKENS
) -> Iterator[Hub]:
    """Runs a Hub while the block runs.

    Args:
        root: folders `<owner>/<repo>` in it become repositories.
        mode: `regular` takes every file within its commit; `lfs` takes weights before it.
        tokens: who may do what.
    """
    server = HubServer(("127.0.0.1", 0), Connection)
    server.hub = Hub(f"http://127.0.0.1:{server.server_port}", mode, tokens)
    for folder in sorted(root.glob("*/*")) if root is not None else ():
        if folder.is_dir():
            server.hub.add_repository(f"{folder.parent.name}/{folder.name}", folder)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server.hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def serving(root: Path) -> Iterator[str]:
    """Serves `root/<owner>/<repo>/...` and yields the endpoint for `HF_ENDPOINT`."""
    with hub(root) as server:
        yield server.endpoint


class HubServer(ThreadingHTTPServer):
    """The loop that takes connections."""

    request_queue_size = 64  # the client opens as many connections at once as it has threads
    hub: Hub

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of clients that go away, which tests kill."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

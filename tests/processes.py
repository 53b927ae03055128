"""Processes of Python that start in a moment, forked from one that has imported SAELens already.

    shown = run("-m", "sae_lens_groups", "train", "--help", cwd=folder)
    assert shown.returncode == 0, shown.stderr

Importing torch, SAELens and what they need takes 6 s of a core. Everything else is as in a process
of its own: it has its own memory, signals, folder, environment and streams, and imports our package
itself. A test of what importing does, or of another interpreter, starts one by `subprocess`.
"""

import atexit
import importlib
import json
import multiprocessing
import os
import runpy
import signal
import socket
import socketserver
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from subprocess import CompletedProcess
from typing import IO

_CONTEXT = multiprocessing.get_context("forkserver")
# What they import is what takes time; our package is not among it.
_OF_TESTS = ["hypothesis", "pytest", "selenium.webdriver.chrome.webdriver"]
_CONTEXT.set_forkserver_preload(
    ["sae_lens", "datasets", "transformers", *_OF_TESTS, "tests.processes"]
)
_OF_THE_HUB = ("HF_", "HUGGINGFACE_", "HUGGING_FACE_")


class Started:
    """A process that runs: its streams, its signals and its end. `start()` starts it."""

    def __init__(self, *args: str, cwd: Path | None, env: Mapping[str, str] | None) -> None:
        """Starts `python *args`."""
        pipes = [_CONTEXT.Pipe(duplex=False) for _ in range(3)]
        (stdin, to_stdin), (from_stdout, stdout), (from_stderr, stderr) = pipes
        environment = dict(os.environ if env is None else env)
        self._process = _CONTEXT.Process(
            target=_be, args=(args, str(cwd or Path.cwd()), environment, (stdin, stdout, stderr))
        )
        self._process.start()
        for end in (stdin, stdout, stderr):
            end.close()
        self.stdin: IO[str] = _stream(to_stdin, "w")
        self.stdout: IO[str] = _stream(from_stdout, "r")
        self.stderr: IO[str] = _stream(from_stderr, "r")

    def send_signal(self, number: int) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def wait(self, timeout: float = 300) -> int:
        """Its status at its end."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            self._process.kill()
            raise TimeoutError(f"still ran after {timeout} s")
        return self._process.exitcode


def start(*args: str, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Started:
    """`python *args` in a process that is left to run."""
    return Started(*args, cwd=cwd, env=env)


def run(
    *args: str, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> CompletedProcess[str]:
    """`python *args` to its end, and what it printed."""
    process = Started(*args, cwd=cwd, env=env)
    process.stdin.close()
    with ThreadPoolExecutor(2) as readers:
        out, err = readers.map(lambda stream: stream.read(), (process.stdout, process.stderr))
    return CompletedProcess(args, process.wait(), out, err)


_SHIM = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [b" "], [0, 1, 2])
    given = {{"args": [*{args!r}, *sys.argv[1:]], "cwd": os.getcwd(), "env": dict(os.environ)}}
    server.sendall(json.dumps(given).encode())
    server.shutdown(socket.SHUT_WR)
    sys.exit(int(server.recv(8)))
"""


class _Forking(socketserver.StreamRequestHandler):
    """Starts what a shim asks for, on the shim's own streams."""

    connection: socket.socket

    def handle(self) -> None:
        _, descriptors, *_ = socket.recv_fds(self.connection, 1, 3)
        given = json.loads(self.rfile.read())
        streams = tuple(map(Connection, descriptors))
        process = _CONTEXT.Process(
            target=_be, args=(tuple(given["args"]), given["cwd"], given["env"], streams)
        )
        process.start()
        for stream in streams:
            stream.close()
        process.join()
        self.wfile.write(str(process.exitcode).encode())


@contextmanager
def commands(folder: Path) -> Iterator[Path]:
    """The commands `sae-lens-groups` and `python` in a new folder, whose processes are forked too.

    For what starts them by name: a shell, a notebook.
    """
    folder.mkdir()
    address = str(folder / "socket")
    for name, args in (("python", ()), ("sae-lens-groups", ("-m", "sae_lens_groups"))):
        shim = folder / name
        shim.write_text(_SHIM.format(python=sys.executable, address=address, args=args))
        shim.chmod(0o755)
    with socketserver.ThreadingUnixStreamServer(address, _Forking) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
        try:
            yield folder
        finally:
            server.shutdown()


def _stream(end: Connection, mode: str) -> IO[str]:
    descriptor = os.dup(end.fileno())
    end.close()
    return os.fdopen(descriptor, mode, buffering=1 if mode == "w" else -1)


def _be(
    args: tuple[str, ...], folder: str, environment: dict[str, str], streams: tuple[Connection, ...]
) -> None:
    """Becomes `python *args`."""
    for number, stream in enumerate(streams):
        os.dup2(stream.fileno(), number)
        stream.close()
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 (the process's own)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    is_hub_another = _hubs(environment) != _hubs(os.environ)
    os.environ.clear()
    os.environ.update(environment)
    if is_hub_another:
        _find_hub_again()
    kind, what, *rest = args
    sys.path[:0] = [folder, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    try:
        if kind == "-m":
            sys.argv = [what, *rest]
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            assert kind == "-c"
            sys.argv = [kind, *rest]
            names = {"__name__": "__main__", "__builtins__": __builtins__}
            exec(compile(what, "<string>", "exec"), names)
    finally:
        atexit._run_exitfuncs()


def _hubs(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_OF_THE_HUB)}


def _find_hub_again() -> None:
    """`huggingface_hub` reads the environment when it is imported, which was before this one."""
    from huggingface_hub import constants, hf_api

    before = dict(vars(constants))
    importlib.reload(constants)
    changed = {
        name: value
        for name, value in vars(constants).items()
        if name.isupper() and before.get(name) != value
    }
    for module in list(sys.modules.values()):
        if (getattr(module, "__name__", "") or "").startswith("huggingface_hub"):
            for name, value in changed.items():
                if vars(module).get(name) == before[name] and name in vars(module):
                    setattr(module, name, value)
    hf_api.api.endpoint = constants.ENDPOINT

"""Calls functions of the benchmarks in processes of their own, and logs what they found."""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self


def in_own_process(function: Callable[..., Any], *, n_threads: int = 1, **arguments: Any) -> Any:
    """What a module's function returns in a process of its own, whose time and memory are its own.

    Arguments and result travel as JSON. A process starts with the peak memory of the one that
    starts it, so where that is measured, torch is imported in the function alone.
    """
    command, env = _command(function, arguments), _environment(n_threads)
    output = subprocess.run(command, capture_output=True, text=True, env=env)
    return _result(output.returncode, output.stdout, output.stderr)


def in_turns(
    function: Callable[..., Any],
    calls: Sequence[Mapping[str, Any]],
    *,
    seconds: Sequence[float],
    n_threads: int = 1,
) -> Iterator[Any]:
    """What a function returns for each of these arguments, in their order, of calls begun together.

    Each has a process of its own, of which one runs at a time and the others are stopped, so that
    what slows a shared machine for minutes slows all of them.

    Args:
        function: of a module, as for `in_own_process`.
        calls: the arguments of each call.
        seconds: how long a turn of each call is.
    """
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(_InTurn(_command(function, arguments), _environment(n_threads)))
            for arguments in calls
        ]
        while any(process.is_running for process in processes):
            for process, turn in zip(processes, seconds, strict=True):
                process.go_on_for(turn)
        yield from [process.result() for process in processes]


class _InTurn:
    """A process that stands still but for its turns, and ends with the `with` block."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        self._out, self._err = (tempfile.TemporaryFile("w+") for _ in range(2))  # noqa: SIM115
        self._process = subprocess.Popen(command, stdout=self._out, stderr=self._err, env=env)
        self._stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._out.close()
        self._err.close()

    @property
    def is_running(self) -> bool:
        """Whether it has not come to its end."""
        return self._process.poll() is None

    def go_on_for(self, seconds: float) -> None:
        """Lets it run for so long, or to its end."""
        self._process.send_signal(signal.SIGCONT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        self._stop()

    def _stop(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def result(self) -> Any:
        """What its function returned."""
        self._out.seek(0)
        self._err.seek(0)
        return _result(self._process.returncode, self._out.read(), self._err.read())


def _command(function: Callable[..., Any], arguments: Mapping[str, Any]) -> list[str]:
    spec = sys.modules[function.__module__].__spec__  # the name of a module run with -m, too
    assert spec is not None
    return [sys.executable, "-m", __name__, spec.name, function.__name__, json.dumps(arguments)]


def _environment(n_threads: int) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": str(n_threads)}


def _result(status: int, out: str, err: str) -> Any:
    if status:
        raise SystemExit(err)
    return json.loads(out.splitlines()[-1])


def log(file: Path | None, result: Mapping[str, Any]) -> None:
    """Shows a finished run, and appends it to the file that `--log` names."""
    line = json.dumps(result)
    print(line, file=sys.stderr, flush=True)
    if file:
        with file.open("a") as lines:
            lines.write(line + "\n")


if __name__ == "__main__":
    module, name, given = sys.argv[1:]
    print(json.dumps(getattr(importlib.import_module(module), name)(**json.loads(given))))

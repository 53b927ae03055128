"""Calls functions of the benchmarks in processes of their own, and logs what they found."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def in_own_process(function: Callable[..., Any], *, n_threads: int = 1, **arguments: Any) -> Any:
    """What a module's function returns in a process of its own, whose time and memory are its own.

    Arguments and result travel as JSON. A process starts with the peak memory of the one that
    starts it, so where that is measured, torch is imported in the function alone.
    """
    spec = sys.modules[function.__module__].__spec__  # the name of a module run with -m, too
    assert spec is not None
    command = [sys.executable, "-m", __name__, spec.name, function.__name__, json.dumps(arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(n_threads)}
    output = subprocess.run(command, capture_output=True, text=True, env=environment)
    if output.returncode:
        raise SystemExit(output.stderr)
    return json.loads(output.stdout.splitlines()[-1])


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

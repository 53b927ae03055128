"""A process that talks to the tests' Hub: commands of ours, or plain Python."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..processes import Started, start
from .server import OWNER, Hub

_WORKER = """
import contextlib, io, json, os, sys, traceback
answers, names = sys.stdout, {}
if sys.argv[1:] == ["without us"]:
    sys.modules["sae_lens_groups"] = None  # importing it fails
for line in sys.stdin:
    task = json.loads(line)
    os.environ.pop("HF_TOKEN", None)
    os.environ.update({"HF_TOKEN": task["token"]} if task["token"] else {})
    out, err, value, failed = io.StringIO(), io.StringIO(), None, None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            if "args" in task:
                from sae_lens_groups.cli import main
                value = main(task["args"])
            else:
                exec(task["code"], names)
                value = names.pop("answer", None)
        except BaseException as error:
            failed = traceback.format_exc()
    answer = {"value": value, "failed": failed, "out": out.getvalue(), "err": err.getvalue()}
    print(json.dumps(answer), file=answers, flush=True)
"""


@dataclass(frozen=True)
class Shown:
    """What a command printed."""

    status: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The message of a command that has to fail with one."""
        assert self.status == 2, (self.out, self.err)
        assert "Traceback" not in self.err
        return self.err.partition(": error: ")[2].removesuffix("\n")


class Client:
    """A process whose Hub is the tests' one. `client()` starts it."""

    def __init__(self, process: Started) -> None:
        self._process = process

    def command(self, *args: str | Path, token: str | None = OWNER) -> Shown:
        """Runs `sae-lens-groups` with these arguments."""
        answer = self._ask({"args": [str(arg) for arg in args]}, token)
        return Shown(answer["value"], answer["out"], answer["err"])

    def python(self, code: str, token: str | None = OWNER, **names: Any) -> Any:
        """Runs a program, and gives what it leaves in `answer`; its other names stay."""
        given = "".join(f"{name} = {value!r}\n" for name, value in names.items())
        return self._ask({"code": given + code}, token)["value"]

    def _ask(self, task: dict[str, Any], token: str | None) -> dict[str, Any]:
        print(json.dumps({**task, "token": token}), file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline())
        assert answer["failed"] is None, answer["failed"]
        return answer


@contextmanager
def client(
    server: Hub,
    home: Path,
    *,
    without_us: bool = False,
    **environment: str,
) -> Iterator[Client]:
    """A process with a cache of its own in `home`; `without_us`, it cannot import our package."""
    process = start(
        *("-c", _WORKER, *(["without us"] if without_us else [])),
        env={**server.environment(home), **environment},
    )
    try:
        yield Client(process)
    finally:
        process.stdin.close()
        process.wait(timeout=60)

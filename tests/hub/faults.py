"""Faults that a test switches on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

How = int | Literal["cut request", "lose answer", "cut answer"]
"""What goes wrong with a request.

- a status: it is refused with that status, and has no effect;
- `cut request`: the connection ends after half of its body, and it has no effect;
- `lose answer`: it takes effect, and the connection ends without an answer;
- `cut answer`: it takes effect, and the connection ends after half of the answer's body.
"""


@dataclass
class Fault:
    """One thing that goes wrong with the requests of a kind."""

    kind: str
    """Or `any`."""
    how: How
    nth: int
    times: int
    n_seen: int = 0

    def strikes(self, kind: str) -> bool:
        """Whether it hits a request, which it counts."""
        if self.kind not in (kind, "any"):
            return False
        self.n_seen += 1
        return self.nth <= self.n_seen < self.nth + self.times


def fault_of(faults: Sequence[Fault], kind: str) -> How | None:
    """What goes wrong with a request of a kind, which every fault counts."""
    striking: list[How] = [fault.how for fault in faults if fault.strikes(kind)]
    return striking[0] if striking else None

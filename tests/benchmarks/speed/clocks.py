"""Time and memory, of a CPU or of a GPU."""

import gc
import resource
import time
from collections.abc import Callable

import psutil
import torch

from tests.benchmarks.speed.jobs import CPU, WALL

CLOCKS = {WALL: time.perf_counter, CPU: time.process_time}


def seconds_of(function: Callable[[], object], device: str, clock: str) -> float:
    """Seconds of one call, with all that it leaves a GPU to do.

    On the clock `cpu` those in which the processor worked on it, whatever else it had to do.
    """
    now = CLOCKS[clock]
    _synchronize(device)
    start = now()
    function()
    _synchronize(device)
    return now() - start


def _synchronize(device: str) -> None:
    if is_cuda(device):
        torch.cuda.synchronize(device)


class Memory:
    """MiB in use when the measured part starts, and at most: of the GPU where that computes."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._before = 0.0

    def start(self) -> None:
        """Says that the measured part starts here."""
        gc.collect()
        if is_cuda(self.device):
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device) / 2**20
        else:
            self._before = psutil.Process().memory_info().rss / 2**20

    def figures(self) -> dict[str, float]:
        """What was in use at the start, and the peak."""
        if is_cuda(self.device):
            peak = torch.cuda.max_memory_allocated(self.device) / 2**20
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return {"before_mib": self._before, "peak_mib": peak}


def is_cuda(device: str) -> bool:
    """Whether a GPU of NVIDIA's computes."""
    return torch.device(device).type == "cuda"

"""What else might make a suite better in the same time: `python -m tests.benchmarks.levers`.

The recipe of two runs from one cache (`tests.benchmarks.time_to_quality`) on the demo model in
float32, as it is and with one thing changed at a time, in both runs or in the one that it belongs
to. Every run has a process of its own and one thread; a round has a seed of its own. Prints medians
over the rounds, and the median of the differences from the recipe as it is, seed by seed.
"""

import argparse
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from tests.benchmarks import demo_runs
from tests.benchmarks.demo_runs import Figures, Run, cook, in_rounds
from tests.benchmarks.kl_part import last_part
from tests.benchmarks.own_process import log
from tests.benchmarks.subjects import DEMO
from tests.benchmarks.time_to_quality import BUDGET, CONSTANT, FALLING

_CACHED = 0.2
AS_IT_IS = "as it is"


class Lever:
    """Changes how a `GroupSAETrainer` trains, from within."""

    def __init__(self, trainer: Any, **settings: float) -> None:
        self.trainer, self.settings = trainer, settings
        self.n_steps = trainer.cfg.total_training_samples // trainer.cfg.train_batch_size_samples
        self.parameters = list(trainer.sae.parameters())

    def before_step(self, _batch: Any, /) -> None:
        """Called with the batch of each step."""

    def after_step(self) -> None:
        """Called behind each step."""

    def at_end(self) -> None:
        """Called once behind the last."""


class Averaged(Lever):
    """The mean of the weights over the last part of the steps, as SWA takes it."""

    n = 0
    means: Sequence[torch.Tensor] = ()

    def after_step(self) -> None:
        if self.trainer.n_training_steps < self.n_steps * (1 - self.settings["part"]):
            return
        self.n += 1
        if self.n == 1:
            self.means = [w.detach().clone() for w in self.parameters]
        for mean, w in zip(self.means, self.parameters):
            mean.lerp_(w.detach(), 1 / self.n)

    @torch.no_grad()
    def at_end(self) -> None:
        for mean, w in zip(self.means, self.parameters):
            w.copy_(mean)


class OwnStep(Lever):
    """Another step in place of Adam's."""

    def __init__(self, trainer: Any, **settings: float) -> None:
        super().__init__(trainer, **settings)
        trainer.optimizer.step = self.step

    @property
    def lr(self) -> float:
        """The rate of the schedule times `rate`."""
        return self.trainer.optimizer.param_groups[0]["lr"] * self.settings["rate"]

    def step(self) -> None:
        raise NotImplementedError


class Momentum(OwnStep):
    """A step that the gradients' moving average alone decides on."""

    def __init__(self, trainer: Any, **settings: float) -> None:
        super().__init__(trainer, **settings)
        self.momenta = [torch.zeros_like(w) for w in self.parameters]

    @torch.no_grad()
    def step(self) -> None:
        for w, momentum in zip(self.parameters, self.momenta):
            if w.grad is not None:
                momentum.lerp_(w.grad, 1 - self.settings["momentum"])
                self.update(w, momentum, self.lr)

    def update(self, w: torch.Tensor, momentum: torch.Tensor, lr: float) -> None:
        raise NotImplementedError


class Signum(Momentum):
    """The momentum's sign (arXiv 1802.04434)."""

    def update(self, w: torch.Tensor, momentum: torch.Tensor, lr: float) -> None:
        w.add_(momentum.sign(), alpha=-lr)


class Muon(Momentum):
    """The momentum of a matrix made orthogonal, with the scale of Adam's updates (arXiv 2502.16982);
    the sign of that of a vector."""

    def update(self, w: torch.Tensor, momentum: torch.Tensor, lr: float) -> None:
        if w.ndim < 2:
            w.add_(momentum.sign(), alpha=-lr)
        else:
            w.add_(_orthogonal(momentum), alpha=-lr * 0.2 * max(w.shape) ** 0.5)


def _orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """By Newton and Schulz's iteration of the fifth order, five times."""
    x = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x if matrix.shape[0] <= matrix.shape[1] else x.T


class FallingK(Lever):
    """k falls to its own from `times` as many over the first `part` of the steps."""

    def __init__(self, trainer: Any, **settings: float) -> None:
        super().__init__(trainer, **settings)
        self.k = trainer.sae.cfg.k

    def before_step(self, _batch: Any) -> None:
        done = self.trainer.n_training_steps / (self.n_steps * self.settings["part"])
        self.trainer.sae.cfg.k = round(
            self.k * max(1, self.settings["times"] ** (1 - min(done, 1)))
        )

    def at_end(self) -> None:
        self.trainer.sae.cfg.k = self.k


class LowRank(OwnStep):
    """Each matrix moves by a product of two of `rank` columns and rows; the vectors move freely."""

    def __init__(self, trainer: Any, **settings: float) -> None:
        super().__init__(trainer, **settings)
        rank = int(settings["rank"])
        self.matrices = [w for w in self.parameters if w.ndim == 2]
        self.starts = [w.detach().clone() for w in self.matrices]
        self.factors = [
            (torch.zeros(len(w), rank), torch.randn(rank, w.shape[1]) / rank**0.5)
            for w in self.matrices
        ]
        moved = [factor for pair in self.factors for factor in pair]
        self.adam = torch.optim.Adam([*moved, *(w for w in self.parameters if w.ndim < 2)])

    @torch.no_grad()
    def step(self) -> None:
        self.adam.param_groups[0]["lr"] = self.lr
        for w, (left, right) in zip(self.matrices, self.factors):
            assert w.grad is not None
            left.grad, right.grad = w.grad @ right.T, left.T @ w.grad
        self.adam.step()
        for w, start, (left, right) in zip(self.matrices, self.starts, self.factors):
            w.copy_(start + left @ right)


class ScheduleFree(OwnStep):
    """Adam's steps from where no gradient is taken, and the mean of those points as the result
    (arXiv 2405.15682). The rate does not fall.
    """

    def __init__(self, trainer: Any, **settings: float) -> None:
        super().__init__(trainer, **settings)
        self.n = 0
        self.points = [w.detach().clone() for w in self.parameters]
        self.means = [w.detach().clone() for w in self.parameters]
        self.squares = [torch.zeros_like(w) for w in self.parameters]

    @torch.no_grad()
    def step(self) -> None:
        self.n += 1
        for w, z, mean, square in zip(self.parameters, self.points, self.means, self.squares):
            if w.grad is not None:
                square.lerp_(w.grad**2, 0.001)
                scale = (square / (1 - 0.999**self.n)).sqrt_().add_(1e-8)
                z.addcdiv_(w.grad, scale, value=-self.lr)
                mean.lerp_(z, 1 / self.n)
                w.copy_(z.lerp(mean, 0.9))

    @torch.no_grad()
    def at_end(self) -> None:
        for w, mean in zip(self.parameters, self.means):
            w.copy_(mean)


KINDS = {kind.__name__: kind for kind in (Averaged, Signum, Muon, FallingK, LowRank, ScheduleFree)}


def _with(kind: str, **settings: float) -> Run:
    return {"lever": [kind, settings]}


# Of each lever: of the groups' run and of the layers' run what changes; `share` as in the recipes.
LEVERS: dict[str, Sequence[Run]] = {
    AS_IT_IS: ({}, {}),
    **{f"Adam, rate x {rate:g}": ({"lr": 8e-3 * rate}, {"lr": 8e-3 * rate}) for rate in (0.5, 1.5)},
    "groups: start at random": ({"init_features": "random"}, {}),
    "layers on half as many tokens more": ({}, {"share": 0.45}),
    "groups: k falls from four times over the first third": (
        _with("FallingK", times=4, part=0.33),
        {},
    ),
    "groups: weights averaged over the last quarter": (
        _with("Averaged", part=0.25),
        {},
    ),
    "layers: the rate stays, weights averaged over half": (
        {},
        {**_with("Averaged", part=0.5), "decay": 0.0},
    ),
    "layers: the rate falls in the last half alone": ({}, {"decay": 0.5}),
    **{
        f"ScheduleFree, rate x {rate:g}": (
            _with("ScheduleFree", rate=rate),
            {**_with("ScheduleFree", rate=rate), "decay": 0.0},
        )
        for rate in (0.5, 1.0, 2.0, 4.0)
    },
    **{
        f"signum, rate x {rate:g}": 2 * (_with("Signum", rate=rate, momentum=0.9),)
        for rate in (0.05, 0.15, 0.3)
    },
    **{
        f"Muon, rate x {rate:g}": 2 * (_with("Muon", rate=rate, momentum=0.9),)
        for rate in (0.3, 1.0, 2.0)
    },
    **{
        f"layers: weights move by products of rank 16, rate x {rate:g}": (
            {},
            _with("LowRank", rank=16, rate=rate),
        )
        for rate in (0.3, 1.0, 3.0)
    },
    **{
        f"layers on half as many tokens, then 4,096 with a KL loss, rate x {rate:g}": (
            {},
            {"share": 0.15, "kl": {"tokens": 4096, "rate": rate}},
        )
        for rate in (0.03, 0.1, 0.3)
    },
}


def train(lever: list[Any] | None = None, kl: Run | None = None, **run: Any) -> Figures:
    """A run as `demo_runs.train` does it, with a lever by name and its settings; `kl`: those of
    `last_part`, which comes behind it.
    """
    with _pulled(*lever) if lever else nullcontext():
        found = demo_runs.train(**{**run, "is_scored": run["is_scored"] and not kl})
    if not kl:
        return found
    then = last_part(Path(run["output_path"]), run["seed"], run["lr"], **kl)
    return {**then, **{name: then[name] + seconds for name, seconds in found.items()}}


@contextmanager
def _pulled(name: str, settings: dict[str, float]) -> Iterator[None]:
    from sae_lens_groups.train.group_trainer import GroupTrainer
    from sae_lens_groups.train.trainer import GroupSAETrainer

    levers: dict[int, Lever] = {}
    step, fit = GroupSAETrainer.step, GroupTrainer.fit

    def step_with(trainer: Any, batch: Any) -> Any:
        if id(trainer) not in levers:
            levers[id(trainer)] = KINDS[name](trainer, **settings)
        levers[id(trainer)].before_step(batch)
        output = step(trainer, batch)
        levers[id(trainer)].after_step()
        return output

    def fit_with(trainer: Any) -> Any:
        result = fit(trainer)
        for lever in levers.values():
            lever.at_end()
        return result

    with (
        mock.patch.object(GroupSAETrainer, "step", step_with),
        mock.patch.object(GroupTrainer, "fit", fit_with),
    ):
        yield


def main() -> None:
    """Runs all rounds and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(LEVERS), default=list(LEVERS))
    parser.add_argument("--log", type=Path, help="append every run to this file as JSON")
    parser.add_argument("--tokens", type=int, default=BUDGET)
    parser.add_argument("--architecture", default="topk", choices=("topk", "batchtopk"))
    args = parser.parse_args()
    results: dict[str, list[Figures]] = {name: [] for name in args.only}
    for seed, name in in_rounds(args.only, args.rounds):
        runs = _runs(name, args.architecture, args.tokens)
        found = cook(runs, seed, int(args.tokens * _CACHED), one_run=train)
        results[name].append(found)
        log(args.log, {"lever": name, "seed": seed, **found})
    print_table(results)


def _runs(lever: str, architecture: str, tokens: int) -> list[Run]:
    """The two runs of the recipe with a lever, where an SAE from scratch would have so many tokens."""
    common = {"architecture": architecture, "autocast_lm": False, **DEMO.settings}
    plain = {**CONSTANT, "init_features": "rows"}, {**FALLING, "share": 0.3}
    runs = [{**common, **run, **changes} for run, changes in zip(plain, LEVERS[lever])]
    return [{"tokens": round(tokens * run.pop("share")), **run} for run in runs]


def print_table(results: dict[str, list[Figures]]) -> None:
    """A Markdown table."""
    print("| | explained variance | change | CE-loss score | change | CPU seconds |")
    print("|---|---|---|---|---|---|")
    for name, runs in results.items():
        cells = []
        for metric in ("explained_variance", "ce_loss_score"):
            values = [run[metric] for run in runs]
            changes = [
                run[metric] - plain[metric] for run, plain in zip(runs, results.get(AS_IT_IS, []))
            ]
            spread = f"{min(changes):+.4f} to {max(changes):+.4f}" if changes else ""
            change = f"{statistics.median(changes):+.4f} ({spread})" if changes else "-"
            cells += [f"{statistics.median(values):.4f}", change]
        seconds = statistics.median(run["cpu_seconds"] for run in runs)
        print(f"| {name} | {' | '.join(cells)} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()

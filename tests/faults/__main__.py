"""`python -m tests.faults --kills 50`: kills runs at random moments, and shows how they end.

With `--ranks 3` each run is of three processes, of which one is killed at a time; they are started
again by torchrun's agent in one run and by hand in the next. With `--recipe` each is a whole suite by
`sae-lens-groups suite`.
"""

import argparse
import json
import os
import random
import sys
import tempfile
from functools import partial
from pathlib import Path

os.environ.update(
    HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1", TQDM_DISABLE="1"
)

from tests.faults.kills import (  # the environment above has to come first
    Outcome,
    killed_and_compared,
)
from tests.faults.ranks import RankedRun, ranks_killed_and_compared
from tests.faults.runs import ALL_KINDS, cook, make_dataset, train


def main() -> int:
    """Prints a line per run and the sum; the exit status is 1 where a run ended otherwise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="in all (default: %(default)s)")
    parser.add_argument("--per_run", type=int, default=4, help="of one run (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ranks", type=int, default=1, help="processes (default: %(default)s)")
    parser.add_argument("--recipe", action="store_true", help="kill `sae-lens-groups suite`")
    args = parser.parse_args()
    kinds = [kind for kind in ALL_KINDS if args.ranks == 1 or not kind.prefetch]
    chance = random.Random(args.seed)
    datasets = {is_streamed: make_dataset(is_streamed) for is_streamed in (False, True)}
    n_kills = n_same = 0
    for n_run in range(10_000):
        if n_kills >= args.kills:
            break
        kind = kinds[(n_run * 5 + args.seed) % len(kinds)]  # 5: all, and mixed
        with tempfile.TemporaryDirectory() as folder:
            wanted = min(args.per_run, args.kills - n_kills)
            dataset = datasets[kind.is_streamed]
            outcome: Outcome
            if args.recipe:
                datasets[False].select(range(600)).save_to_disk(f"{folder}/text")  # type: ignore[union-attr]
                one = partial(cook, Path(folder))
                outcome = killed_and_compared(one, Path(folder), wanted, chance)
            elif args.ranks == 1:
                one = partial(train, kind, dataset, Path(folder))
                outcome = killed_and_compared(one, Path(folder), wanted, chance)
            else:
                run = RankedRun(kind, dataset, Path(folder), args.ranks)
                outcome = ranks_killed_and_compared(
                    run, wanted, chance, is_restarted=n_run % 2 == 0
                )
        n_kills += len(outcome.kills)
        n_same += 0 if outcome.differing else len(outcome.kills)
        what = "the recipe" if args.recipe else kind
        print(f"{what}: {', '.join(outcome.kills)}: {outcome.differing or 'the same'}", flush=True)
    print(json.dumps({"kills": n_kills, "bit_identical": n_same}))
    return 0 if n_same == n_kills else 1


if __name__ == "__main__":
    sys.exit(main())

"""What one sweep saves over `run_evals` layer by layer: `python -m tests.benchmarks.evaluation`.

Both measure all of SAELens's metrics of 12 layers on the same tokens, with SAEs that know nothing:
speed does not depend on what they have learned. Interleaved in an order of each round's own, in one
process. Prints the medians, and the median of the rounds' ratios. The numbers of both are compared
in every round.
"""

import argparse
import random
import statistics
import time
from typing import Any, cast

import torch
from sae_lens import SAE, ActivationsStore, TopKSAEConfig
from sae_lens.evals import get_eval_everything_config, run_evals
from sae_lens.load_model import HookedProxyLM
from sae_lens.saes.sae import SAEMetadata
from sae_lens.training.activation_scaler import ActivationScaler
from transformer_lens import HookedRootModule, HookedTransformer, HookedTransformerConfig
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from sae_lens_groups.evaluate.metrics import SECTIONS, metrics_of
from sae_lens_groups.evaluate.sweep import sweep
from sae_lens_groups.evaluate.tokens import EvaluatedTokens
from sae_lens_groups.train.evals import ReplayedTokens

N_LAYERS = 12
LOOP, SWEEP = "run_evals per layer", "one sweep"
# width, d_sae, k, vocabulary, context, prompts per batch, batches
SHAPES = {
    "toy": (128, 1024, 16, 4096, 128, 16, 2),
    "Pythia-160M": (768, 12288, 32, 50304, 256, 2, 1),
}


def main() -> None:
    """Runs all rounds and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"| shape | model class | {LOOP} | {SWEEP} | ratio |\n|---|---|---|---|---|")
    for shape in args.shapes:
        for model, hook_names in (_transformer_lens(shape), _hugging_face(shape)):
            seconds = interleaved(shape, model, hook_names, args.rounds)
            ratios = [loop / sweep for loop, sweep in zip(seconds[LOOP], seconds[SWEEP])]
            name = type(model).__name__.replace("HookedProxyLM", "AutoModelForCausalLM")
            medians = " | ".join(f"{statistics.median(seconds[way]):.2f} s" for way in seconds)
            print(
                f"| {shape} | {name} | {medians} | {statistics.median(ratios):.2f} "
                f"({min(ratios):.2f} to {max(ratios):.2f}) |",
                flush=True,
            )


def interleaved(
    shape: str, model: HookedRootModule, hook_names: list[str], rounds: int
) -> dict[str, list[float]]:
    """Way -> seconds in each round, after one that warms up."""
    *_, d_vocab, context, n_prompts, n_batches = SHAPES[shape]
    batches = [torch.randint(d_vocab, (n_prompts, context)) for _ in range(n_batches)]
    saes = {name: _sae(shape, name) for name in hook_names}
    ways = {LOOP: looped, SWEEP: swept}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for round_number in range(rounds + 1):
        order = list(ways)
        random.Random(round_number).shuffle(order)
        found = {}
        for way in order:
            start = time.perf_counter()
            found[way] = ways[way](model, saes, batches)
            seconds[way].append(time.perf_counter() - start)
        require_same(found[LOOP], found[SWEEP])
    return {way: of_rounds[1:] for way, of_rounds in seconds.items()}


def swept(
    model: HookedRootModule, saes: dict[str, SAE[Any]], batches: list[torch.Tensor]
) -> dict[str, dict[str, float]]:
    """Hook name -> metrics, from one sweep."""
    trained = {name: [sae.cfg.metadata] for name, sae in saes.items()}
    tokens = EvaluatedTokens(batches)
    (results,), _ = sweep(model, tokens, [saes], trained, {}, autocast_lm=False, ablations={})
    return {name: metrics_of(result.sums) for name, result in results.items()}


def looped(
    model: HookedRootModule, saes: dict[str, SAE[Any]], batches: list[torch.Tensor]
) -> dict[str, dict[str, float]]:
    """Hook name -> metrics, from SAELens's `run_evals` for each layer."""
    config = get_eval_everything_config(len(batches[0]), len(batches), len(batches))
    config.compute_featurewise_weight_based_metrics = False
    found = {}
    for name, sae in saes.items():
        metrics, _ = run_evals(
            sae,
            cast("ActivationsStore", _Given(batches)),
            model,
            ActivationScaler(),
            config,
            exclude_special_tokens=False,
        )
        found[name] = {
            metric: metrics[part][metric] for part in SECTIONS for metric in SECTIONS[part]
        }
    return found


class _Given(ReplayedTokens):
    """The same LM batches for both of `run_evals`'s groups of metrics."""

    def __init__(self, batches: list[torch.Tensor]) -> None:
        self.store_batch_size_prompts, self.context_size = batches[0].shape
        self._batches, self._position = batches, 0

    def reset_input_dataset(self) -> None:
        self._position = 0


def require_same(loop: dict[str, dict[str, float]], swept: dict[str, dict[str, float]]) -> None:
    """Stops where the two ways give different numbers."""
    for name, metrics in loop.items():
        for metric, value in metrics.items():
            if metric == "ce_loss_score":  # a ratio of differences that a random model has none of
                continue
            difference = abs(swept[name][metric] - value)
            assert difference <= 1e-5 * max(1, abs(value)), (name, metric, value, difference)


def _sae(shape: str, hook_name: str) -> SAE[Any]:
    d_in, d_sae, k, *_ = SHAPES[shape]
    metadata = SAEMetadata(hook_name=hook_name, hook_head_index=None)
    return SAE.from_dict(TopKSAEConfig(d_in=d_in, d_sae=d_sae, k=k, metadata=metadata).to_dict())


def _transformer_lens(shape: str) -> tuple[HookedRootModule, list[str]]:
    d_in, _, _, d_vocab, context, *_ = SHAPES[shape]
    config = HookedTransformerConfig(
        n_layers=N_LAYERS,
        d_model=d_in,
        n_ctx=context,
        d_head=d_in // 8,
        n_heads=8,
        d_vocab=d_vocab,
        act_fn="gelu",
        device="cpu",
    )
    names = [f"blocks.{layer}.hook_resid_post" for layer in range(N_LAYERS)]
    return HookedTransformer(config), names


def _hugging_face(shape: str) -> tuple[HookedRootModule, list[str]]:
    d_in, _, _, d_vocab, *_ = SHAPES[shape]
    config = GPTNeoXConfig(
        num_hidden_layers=N_LAYERS,
        hidden_size=d_in,
        intermediate_size=4 * d_in,
        num_attention_heads=8,
        vocab_size=d_vocab,
    )
    names = [f"gpt_neox.layers.{layer}" for layer in range(N_LAYERS)]
    tokenizer: Any = None
    return HookedProxyLM(GPTNeoXForCausalLM(config).eval(), tokenizer, hook_names=names), names


if __name__ == "__main__":
    main()

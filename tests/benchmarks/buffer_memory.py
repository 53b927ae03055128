"""Memory against the layers in a group: `python -m tests.benchmarks.buffer_memory`.

One group of 4, 8 and 16 layers of a random 16-layer model of width 512, each in a process of its
own. Prints the bytes that the shuffle buffer holds and the peak memory of filling it, beside what
the layers of one LM batch would take if they were all kept. Neither grows.
"""

import resource

from tests.benchmarks.own_process import in_own_process

N_LAYERS = (4, 8, 16)
D_MODEL, CONTEXT_SIZE, PROMPTS = 512, 128, 8


def main() -> None:
    """Prints a Markdown table."""
    print("| layers in the group | shuffle buffer | peak memory | all layers of one batch |")
    print("|---|---|---|---|")
    for n_layers in N_LAYERS:
        figures = in_own_process(measure, n_layers=n_layers)
        captured = n_layers * PROMPTS * CONTEXT_SIZE * D_MODEL * 4
        print(
            f"| {n_layers} | {figures['buffer'] / 2**20:.1f} MiB | "
            f"{figures['peak_kib'] / 1024:.0f} MiB | {captured / 2**20:.1f} MiB |"
        )


def measure(n_layers: int) -> dict[str, float]:
    """Bytes of the buffer and peak KiB of the process, for a group of layers 0 to n_layers - 1."""
    import torch
    from datasets import Dataset
    from sae_lens import LoggingConfig, TopKTrainingSAEConfig
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    from sae_lens_groups import GroupSAERunnerConfig
    from sae_lens_groups.activations.batches import BatchStream
    from sae_lens_groups.activations.store import GroupActivationsStore
    from sae_lens_groups.train.prepare import settle
    from tests.test_memory import live_tensor_bytes

    torch.set_num_threads(1)
    model = HookedTransformer(
        HookedTransformerConfig(
            n_layers=max(N_LAYERS),
            d_model=D_MODEL,
            n_ctx=CONTEXT_SIZE,
            d_head=64,
            n_heads=8,
            d_vocab=1000,
            act_fn="gelu",
            device="cpu",
        )
    )
    cfg = GroupSAERunnerConfig(
        sae=TopKTrainingSAEConfig(d_in=D_MODEL, d_sae=1024, k=32),
        layer_groups=f"0-{n_layers - 1}",
        hook_name="blocks.0.hook_resid_post",
        context_size=CONTEXT_SIZE,
        train_batch_size_tokens=1024,
        store_batch_size_prompts=PROMPTS,
        n_batches_in_buffer=256,
        logger=LoggingConfig(log_to_wandb=False),
        verbose=False,
    )
    dataset = Dataset.from_dict({"tokens": torch.randint(0, 1000, (600, CONTEXT_SIZE)).numpy()})
    groups = settle(cfg).groups_of(max(N_LAYERS))
    assert groups is not None
    store = GroupActivationsStore.from_group_config(model, cfg, groups, dataset)
    before = live_tensor_bytes()
    batches = BatchStream(store)
    held = 0
    for _ in range(20):
        next(batches)
        held = max(held, live_tensor_bytes() - before)
    return {"buffer": held, "peak_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}


if __name__ == "__main__":
    main()

"""What further layers of a group cost on the Hub: `python -m tests.benchmarks.hub_storage`.

Uploads the layers of a group of four with the Hub client's own chunking and deduplication (hf_xet,
into a store on disk), and prints the new bytes of each further layer as a share of its weights
file. For contrast, layers that do not share their matrices: those of an aligned group, and of
SAELens's own fold. Then the same layers in other uploads. Two steps of training are enough: the
values of the weights do not matter.
"""

import argparse
import copy
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from sae_lens import SAE, LoggingConfig, TopKTrainingSAEConfig, TrainingSAEConfig
from sae_lens.constants import SAE_WEIGHTS_FILENAME, SPARSITY_FILENAME
from transformer_lens import HookedTransformer, HookedTransformerConfig

from sae_lens_groups import GroupSAERunnerConfig, GroupSAETrainingRunner, SAESuite

N_LAYERS = 4
SHAPES = {"demo": (96, 768), "middle": (256, 8192), "Pythia-160M": (768, 12288)}  # d_in, d_sae
CONTEXT_SIZE, D_VOCAB, BATCH = 32, 500, 256


class Stored(NamedTuple):
    """What one upload added to a store."""

    file_bytes: int
    """Size of the uploaded files."""
    new_bytes: int
    """Of them in chunks that the store did not hold, as the client counts them."""
    store_bytes: int
    """Growth of the store on disk: these chunks compressed, and what lists them."""


def main() -> None:
    """Prints two Markdown tables: what is shared, and in which uploads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "| d_in x d_sae | layer's file | further layer | with its sparsity | "
        "layer_alignment orthogonal | refitted | SAELens's fold |\n|---|---|---|---|---|---|---|"
    )
    by_upload = []
    for shape in args.shapes:
        d_in, d_sae = SHAPES[shape]
        with tempfile.TemporaryDirectory() as folder:
            suite = train(topk(d_in, d_sae), Path(folder) / "suite")
            size = weights_files(suite)[0].stat().st_size
            columns = " | ".join(what_is_shared(suite, Path(folder)))
            print(f"| {d_in} x {d_sae} | {size / 1e6:.1f} MB | {columns} |", flush=True)
            columns = " | ".join(other_uploads(suite, Path(folder)))
            by_upload.append(f"| {d_in} x {d_sae} | {columns} |")
    print(
        "\n| d_in x d_sae | the first, then the others | each from another machine | "
        "all in one upload | the group's training form |\n|---|---|---|---|---|"
    )
    print("\n".join(by_upload))


def what_is_shared(suite: SAESuite, folder: Path) -> list[str]:
    """New bytes of a further layer, in an upload of its own, for each way to make the files."""
    files = weights_files(suite)
    (group,) = suite.manifest.groups
    d_in, d_sae = suite.group(group).W_enc.shape
    aligned = train(topk(d_in, d_sae), folder / "aligned", layer_alignment="orthogonal")
    refitted = train(topk(d_in, d_sae), folder / "refitted", refit_tokens=2000)
    ways = {
        "weights": [[file] for file in files],
        "sparsity": [[file, file.with_name(SPARSITY_FILENAME)] for file in files],
        "of_aligned": [[file] for file in weights_files(aligned)],
        "refitted": [[file] for file in weights_files(refitted)],
        "saelens": [[file] for file in folded_by_saelens(suite, folder / "folded")],
    }
    size = files[0].stat().st_size
    return [
        shares([one.new_bytes for one in upload(folder / name, uploads)][1:], size)
        for name, uploads in ways.items()
    ]


def other_uploads(suite: SAESuite, folder: Path) -> list[str]:
    """New bytes of the same layers, and of the group's own SAE, in other uploads."""
    files = weights_files(suite)
    size = files[0].stat().st_size
    (group,) = (folder / "suite/groups").glob(f"*/{SAE_WEIGHTS_FILENAME}")
    _, others, of_group = upload(folder / "in_two", [files[:1], files[1:], [group]])
    elsewhere = upload(folder / "elsewhere", [[file] for file in files], new_client=True)
    (at_once,) = upload(folder / "at_once", [files])
    return [
        shares([others.new_bytes / (N_LAYERS - 1)], size),
        shares([one.new_bytes for one in elsewhere[1:]], size),
        shares([(at_once.new_bytes - size) / (N_LAYERS - 1)], size),
        shares([of_group.new_bytes], size),
    ]


def shares(new_bytes: Sequence[float], size: int) -> str:
    """Lowest and highest as shares of a layer's file."""
    lowest, highest = (f"{part / size:.2%}" for part in (min(new_bytes), max(new_bytes)))
    return lowest if lowest == highest else f"{lowest} to {highest}"


def upload(
    store: Path, uploads: Sequence[Sequence[Path]], *, new_client: bool = False
) -> list[Stored]:
    """Uploads files into an empty store, one list of them after the other.

    Args:
        store: a folder, made here.
        uploads: the files of each upload.
        new_client: every upload forgets what earlier ones sent, as from another machine, and has
            to ask the store.
    """
    import hf_xet

    stored = []
    for files in uploads:
        before = _store_bytes(store)
        session = hf_xet.XetSession()  # pyright: ignore[reportAttributeAccessIssue]  # it has no stubs
        with session.new_upload_commit(endpoint=f"local://{store}") as commit:
            handles = [commit.start_upload_file(str(file)) for file in files]
        new_bytes = sum(handle.result().dedup_metrics.new_bytes for handle in handles)
        file_bytes = sum(file.stat().st_size for file in files)
        stored.append(Stored(file_bytes, new_bytes, _store_bytes(store) - before))
        if new_client:
            for cache in ("shard-cache", "shard-session"):
                shutil.rmtree(store / "xet" / cache)
    return stored


def _store_bytes(store: Path) -> int:
    """Size of the chunks and of the shards that list them; not of the client's cache beside."""
    paths = (store / "xet/xorbs").glob("*/*")
    return sum(path.stat().st_size for path in paths if path.suffix != ".tagset")


def weights_files(suite: SAESuite) -> list[Path]:
    """The weights of every layer of a saved suite."""
    assert suite.path is not None
    return [suite.path / hook_name / SAE_WEIGHTS_FILENAME for hook_name in suite]


def folded_by_saelens(suite: SAESuite, folder: Path) -> list[Path]:
    """The same layers as SAELens's own fold of each layer's factor makes them."""
    (group,) = suite.manifest.groups
    suite.group(group).save_inference_model(folder / "group")
    group_sae: SAE[Any] = SAE.load_from_disk(folder / "group")
    files = []
    for layer in group.layers:
        sae, factor = copy.deepcopy(group_sae), suite.scaler(layer).scaling_factor
        assert factor is not None
        sae.fold_activation_norm_scaling_factor(factor)
        files.append(Path(sae.save_model(folder / str(layer))[0]))
    return files


def topk(d_in: int, d_sae: int) -> TrainingSAEConfig:
    """A TopK SAE on activations that are scaled per layer."""
    return TopKTrainingSAEConfig(
        d_in=d_in, d_sae=d_sae, k=32, normalize_activations="expected_average_only_in"
    )


def train(sae: TrainingSAEConfig, folder: Path, **settings: Any) -> SAESuite:
    """A suite of one group of four layers in a folder, after two steps on random tokens."""
    torch.manual_seed(0)
    model = HookedTransformer(
        HookedTransformerConfig(
            n_layers=N_LAYERS,
            d_model=sae.d_in,
            n_ctx=CONTEXT_SIZE,
            d_head=32,
            n_heads=2,
            d_mlp=64,
            d_vocab=D_VOCAB,
            act_fn="gelu",
            device="cpu",
        )
    )
    cfg = GroupSAERunnerConfig(
        sae=sae,
        layer_groups=f"0-{N_LAYERS - 1}",
        model_name="random",
        hook_name="blocks.0.hook_resid_post",
        context_size=CONTEXT_SIZE,
        training_tokens=2 * BATCH,
        train_batch_size_tokens=BATCH,
        store_batch_size_prompts=4,
        n_batches_in_buffer=16,
        n_batches_for_norm_estimate=4,
        plan_tokens=2_000,
        seed=0,
        is_dataset_tokenized=False,
        logger=LoggingConfig(log_to_wandb=False),
        checkpoint_path=None,
        output_path=str(folder),
        verbose=False,
        **settings,
    )
    tokens = torch.randint(D_VOCAB, (400, CONTEXT_SIZE), generator=torch.Generator().manual_seed(0))
    dataset = Dataset.from_dict({"tokens": tokens.tolist()})
    return GroupSAETrainingRunner(cfg, override_dataset=dataset, override_model=model).run()


if __name__ == "__main__":
    main()

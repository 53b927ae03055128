"""A suite whose layers have decoders of their own, refitted after training."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from sae_lens import SAE
from sae_lens.config import HfDataset
from tqdm.auto import tqdm
from transformer_lens import HookedRootModule
from typing_extensions import override

from sae_lens_groups.activations import (
    ActivationNorms,
    CountedRows,
    GroupActivationsStore,
    are_finite,
    fingerprint,
)
from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.errors import ConfigError, DatasetError
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.saved import SAESource, WrappedSource
from sae_lens_groups.suite import SAESuite
from sae_lens_groups.train.cache.read import CachedActivationsStore
from sae_lens_groups.train.refit.decoder import RefitScores, refit_decoder, require_refittable


def refit_suite(
    suite: SAESuite,
    model: HookedRootModule,
    dataset: HfDataset,
    refit_tokens: int = 20_000,
    autocast_lm: bool | None = None,
) -> SAESuite:
    """The suite with every layer's decoder and b_dec refitted to that layer, in memory.

    Each layer's latents stay those of its group's SAE, whose decoder is a compromise between the
    group's layers; ridge least squares take it as far towards the layer as its rows tell more than
    noise. `W_enc` stays shared by a group's layers, `W_dec` does not, and its rows' norms are
    no longer 1. Takes memory for the rows, `refit_tokens` x d_in numbers for each layer.

    Args:
        suite: trained by this package, whose settings say how text becomes rows.
        model: the language model, with hooks at all layers.
        dataset: text or tokens; those of the training will do.
        refit_tokens: how many are read, from the first on.
        autocast_lm: whether the language model computes in bfloat16; as in training if None.

    Raises:
        ConfigError: the suite does not say how it was trained, or its decoders are not linear.
        DatasetError: the dataset is shorter than one batch, or cannot be used.
    """
    require_refittable_suite(suite)
    assert suite.runner_cfg is not None
    own: dict[str, Any] = {
        "use_cached_activations": False,
        "init_from": None,
        "token_fraction": None,
    }
    device = str(next(model.parameters()).device)
    own |= {"device": device, "init_keep_layers": False, "refit_tokens": refit_tokens}
    own |= {} if autocast_lm is None else {"autocast_lm": autocast_lm}
    cfg = GroupSAERunnerConfig.from_saved(suite.runner_cfg, **own)
    metadata = [suite.source.layer(layer).cfg.metadata for layer in suite.layers]
    limits = {of.hook_name: of.max_activation_norm for of in metadata}
    known = {name: limit for name, limit in limits.items() if limit is not None}
    rows = CountedRows.of(dataset)
    store = GroupActivationsStore.from_group_config(model, cfg, _alone(suite.layers), rows, known)
    refitted = _refitted(suite, store, refit_tokens, device)
    n_before = suite.manifest.rows_trained_on
    if n_before is not None and is_text_of_training(suite, rows.dataset):
        set_rows_read(refitted, max(n_before, rows.n_read))
    return refitted


def is_text_of_training(suite: SAESuite, dataset: HfDataset) -> bool:
    """Whether a suite was trained on this dataset, by its first rows."""
    return fingerprint(dataset) == suite.manifest.dataset_fingerprint


def set_rows_read(suite: SAESuite, n_read: int | None) -> None:
    """Says how many of its dataset's rows a suite's training and refitting have read."""
    suite.manifest = replace(suite.manifest, dataset_rows_read=n_read)
    suite.source.manifest = suite.manifest


def require_refittable_suite(suite: SAESuite) -> None:
    """Refuses a suite whose decoders cannot be refitted."""
    if suite.runner_cfg is None or suite.manifest.is_imported or not suite.source.has_groups:
        raise ConfigError(
            "these SAEs were not trained by sae-lens-groups, or do not say how; refit takes the "
            "output_path of one of its runs"
        )
    require_refittable(suite.runner_cfg["sae"]["architecture"])


def refit_text(suite: SAESuite) -> str:
    """A line for each layer of a refitted suite: its ridge, and what the new decoder is worth."""
    lines = [f"{'layer':<32}  {'ridge':>5}  explained variance of rows kept apart"]
    for hook_name, layer in zip(suite, suite.layers):
        of = suite.source.layer(layer).cfg.metadata.sae_lens_groups["refit"]
        change = f"{of['before']:.4f} -> {of['after']:.4f}" if of["ridge"] else "as it was"
        lines.append(f"{hook_name:<32}  {of['ridge']:>5g}  {change}")
    return "\n".join(lines)


def refit_trained(
    suite: SAESuite,
    own: Iterable[LayerGroup],
    cfg: GroupSAERunnerConfig[Any],
    store: GroupActivationsStore,
    norms: ActivationNorms,
) -> SAESuite:
    """The suite of a run, whose own groups are refitted to the first tokens that the run read."""
    layers = [layer for group in own for layer in group.layers]
    if not layers:  # other processes have them all
        return suite
    has_rows = isinstance(store, CachedActivationsStore) and store.holds_all_rows
    kind = type(store) if has_rows else GroupActivationsStore
    limits = norms.limits(cfg.hook_template)
    alone = kind.from_group_config(store.model, cfg, _alone(layers), store.rows, limits)
    return _refitted(suite, alone, cfg.refit_tokens, cfg.device)


def _alone(layers: Iterable[int]) -> tuple[LayerGroup, ...]:
    return tuple(LayerGroup(layer, layer) for layer in layers)


def _refitted(
    suite: SAESuite, store: GroupActivationsStore, refit_tokens: int, device: str
) -> SAESuite:
    """The suite with decoders refitted to a store's first rows, of which each layer is a group."""
    layers = [layer for group in store.groups for layer in group.layers]
    of_any = next(group for group in suite.groups if layers[0] in group.layers)
    trained = suite.source.group(of_any).cfg
    widths = getattr(trained, "matryoshka_widths", [])[:-1]  # SAELens takes the last as d_sae
    device = "cpu" if device.startswith("mps") else device  # which has no sparse products
    parameters, scores = {}, {}
    for layer, rows_ND in _rows_of_layers(layers, store, refit_tokens):
        sae = _with_free_norms(suite.source.layer(layer, device)).to(device)
        scores[layer] = refit_decoder(sae, rows_ND, [*widths, trained.d_sae])
        # W_enc is the group's, which the source has.
        parameters[layer] = {n: of for n, of in sae.state_dict().items() if n != "W_enc"}
    source = _Refitted(suite.source, parameters, scores, refit_tokens)
    return SAESuite(source, suite.layers, device=device)


def _rows_of_layers(
    layers: Iterable[int], store: GroupActivationsStore, n_tokens: int
) -> Iterator[tuple[int, torch.Tensor]]:
    """Each layer's rows (N, D), which are let go when the next is asked for."""
    batches = list(store.layer_rows(n_tokens, "Reading rows to refit decoders to"))
    n_read = sum(len(batch[0]) for batch in batches)
    if not n_read:
        raise DatasetError("the dataset is shorter than one batch; refitting decoders takes more")
    if n_read < n_tokens:
        warnings.warn(
            f"the dataset has {n_read:,} tokens, fewer than refit_tokens={n_tokens:,}", stacklevel=4
        )
    of_layers = [list(parts) for parts in zip(*batches)]
    del batches
    for layer in tqdm(layers, desc="Refitting decoders", unit="layer", leave=False):
        rows_ND = torch.cat(of_layers.pop(0))
        store.require_finite({store.template.hook_name(layer): are_finite(rows_ND)})
        yield layer, rows_ND


class _Refitted(WrappedSource):
    """Another source's suite, with decoders of its layers' own."""

    def __init__(
        self,
        source: SAESource,
        parameters: Mapping[int, Mapping[str, torch.Tensor]],
        scores: Mapping[int, RefitScores],
        n_tokens: int,
    ) -> None:
        super().__init__(source)
        self._parameters, self._scores, self._n_tokens = parameters, scores, n_tokens
        self.manifest = replace(source.manifest, refit_tokens=n_tokens)

    @override
    def layer(self, layer: int, device: str = "cpu") -> SAE[Any]:
        sae = _with_free_norms(self._source.layer(layer, device))
        sae.load_state_dict({**sae.state_dict(), **self._parameters[layer]})
        facts = dict(sae.cfg.metadata.sae_lens_groups or {})
        facts["refit"] = {"tokens": self._n_tokens, **self._scores[layer]._asdict()}
        sae.cfg.metadata.sae_lens_groups = facts
        return sae


def _with_free_norms(sae: SAE[Any]) -> SAE[Any]:
    """The same SAE, whose latents no longer depend on the norms of its decoder's rows."""
    if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):
        sae.fold_W_dec_norm()
        sae.cfg.rescale_acts_by_decoder_norm = False  # pyright: ignore[reportAttributeAccessIssue]
    return sae

"""Looks at a suite's features: one pass over text for all layers, then the directions."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from sae_lens import SAE
from sae_lens.config import HfDataset
from tqdm.auto import tqdm
from transformer_lens import HookedRootModule

from sae_lens_groups.activations import run_to_last_hook
from sae_lens_groups.errors import DatasetError
from sae_lens_groups.evaluate import (
    Baseline,
    Outliers,
    as_in_training,
    lm_batches,
    metadata_of_both,
    public,
    require_evaluable,
    token_store,
    with_baseline,
)
from sae_lens_groups.features.choose import chosen_features
from sae_lens_groups.features.directions import (
    Nearest,
    logit_lens,
    nearest_elsewhere,
    nearest_features,
    unembedding,
)
from sae_lens_groups.features.kept import NO_PROMPT
from sae_lens_groups.features.result import GroupFeatures, LayerFeatures, SuiteFeatures
from sae_lens_groups.features.tally import GroupTally
from sae_lens_groups.features.write import write_features
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.suite import SAESuite


@torch.no_grad()
def collect_features(
    suite: SAESuite | str | Path,
    model: HookedRootModule,
    dataset: HfDataset,
    *,
    features: str | None = None,
    top: str | None = None,
    baseline: Baseline | Mapping[str, SAE[Any]] | str | Path | None = None,
    n_batches: int = 32,
    batch_size_prompts: int = 16,
    context_size: int | None = None,
    n_top: int = 6,
    n_sampled: int = 6,
    width: int = 24,
    dataset_name: str = "dataset",
    show_texts: bool = True,
    autocast_lm: bool | None = None,
    seed: int = 0,
) -> SuiteFeatures:
    """Where, how often and how strongly each feature fires, on every layer of its group.

    Text becomes prompts, and tokens are left out, as in training. Writes the folder `features` into
    the suite's folder, where it has one: a page, `features/index.html`, and `features.csv`. What
    lay there is replaced. Memory does not grow with the text.

    Args:
        suite: the suite, or its folder.
        model: the language model, as SAELens's `load_model` gives it, with hooks at all layers.
        dataset: text or tokens (a `datasets` dataset).
        features: only these of every group, such as `0-99,512`; all where it and `top` are None.
        top: only `dense`, `rare` or `layer-specific` ones, by how often they fired in training, or
            `random` ones: 200 of every group, or as many as follow a colon, as in `random:50`.
        baseline: other SAEs, in the forms that `evaluate_suite` takes, in which the nearest
            features are looked up too.
        n_batches: LM batches to read.
        batch_size_prompts: prompts per LM batch.
        context_size: tokens per prompt; that of the suite's training if None.
        n_top: prompts that are kept of each feature and layer, those in which it fires highest.
        n_sampled: prompts that are drawn from all in which it fires.
        width: tokens that are kept of each, around the highest activation.
        dataset_name: what the page calls the dataset.
        show_texts: whether the page shows the dataset's text.
        autocast_lm: whether the language model computes in bfloat16; as in training if None.
        seed: of the draws.

    Raises:
        SuiteError: files of a suite are damaged, or the baseline cannot be compared with it.
        HookNameError: the model lacks a hook of the suite.
        ConfigError: the model has another width, or there are no such features.
        DatasetError: the dataset is shorter than one batch, or cannot be used.
    """
    suite = suite if isinstance(suite, SAESuite) else SAESuite.load(suite)
    chosen = chosen_features(suite, features, top, seed)
    require_evaluable(suite, model)
    compared, shared = with_baseline(suite, baseline)
    if autocast_lm is None:
        autocast_lm = bool((suite.runner_cfg or {}).get("autocast_lm"))
    sizes = (n_top, n_sampled, width, seed)
    prompts = (batch_size_prompts, context_size)
    read, tallies = _tallied(suite, model, dataset, chosen, sizes, n_batches, prompts, autocast_lm)
    groups = _with_directions(suite, model, tallies, read.n_tokens, shared)
    found = SuiteFeatures(
        groups=groups,
        **read._asdict(),
        dataset_name=public(dataset_name),
        texts=_texts(model, groups),
        baseline_name=None if compared is None else public(compared.name),
        n_bytes=sum(tally.n_bytes for tally in tallies),
    )
    if suite.path is not None:
        write_features(suite, found, show_texts=show_texts)
    return found


class _Read(NamedTuple):
    """What was read."""

    n_tokens: int
    n_prompts: int
    context_size: int


def _tallied(
    suite: SAESuite,
    model: HookedRootModule,
    dataset: HfDataset,
    chosen: Mapping[LayerGroup, torch.Tensor],
    sizes: tuple[int, int, int, int],
    n_batches: int,
    prompts: tuple[int, int | None],
    autocast_lm: bool,
) -> tuple[_Read, list[GroupTally]]:
    """The pass over the text."""
    trained = metadata_of_both(suite, None, {}, model)
    said = [of for each in trained.values() for of in each]
    any_sae = next(iter(suite.values()))
    store = token_store(model, any_sae, said, dataset, *prompts)
    n_top, n_sampled, width, seed = sizes
    width = min(width, store.context_size)
    tallies = [
        GroupTally(
            group,
            {name: suite[name] for name in suite.manifest.hook_template.hook_names([group])},
            feature_C,
            *(n_top, n_sampled, width, seed + group.first),
        )
        for group, feature_C in chosen.items()
    ]
    counted, outliers = as_in_training([], said, model), Outliers(trained)
    n_tokens, n_prompts = 0, 0
    with tqdm(total=n_batches, desc="Looking at features", unit="batch", leave=False) as bar:
        for tokens_ST in lm_batches(store, n_batches):
            captured = _captured(model, tokens_ST, suite, autocast_lm)
            kept_ST = outliers.apart(captured, counted.kept(tokens_ST)).ordinary_ST
            for tally in tallies:
                tally.add(captured, tokens_ST, kept_ST, n_prompts)
            n_tokens += int(kept_ST.sum())
            n_prompts += len(tokens_ST)
            bar.update()
    if not n_tokens:
        raise DatasetError(
            f"no token of the {n_prompts} prompts is one that was trained on; give other text or "
            "context_size"
        )
    return _Read(n_tokens, n_prompts, store.context_size), tallies


def _captured(
    model: HookedRootModule, tokens_ST: torch.Tensor, suite: SAESuite, autocast_lm: bool
) -> dict[str, torch.Tensor]:
    """The activations at all hooks of the suite."""
    captured: dict[str, torch.Tensor] = {}
    with torch.autocast(tokens_ST.device.type, dtype=torch.bfloat16, enabled=autocast_lm):
        run_to_last_hook(
            model,
            tokens_ST,
            list(suite),
            captured.__setitem__,
            **((suite.runner_cfg or {}).get("model_kwargs") or {}),
        )
    return captured


def _with_directions(
    suite: SAESuite,
    model: HookedRootModule,
    tallies: Sequence[GroupTally],
    n_tokens: int,
    baseline: Mapping[str, SAE[Any]],
) -> tuple[GroupFeatures, ...]:
    """What was counted of each group, and what its decoder directions say."""
    found = []
    for n, tally in enumerate(tallies):
        near = {m: _nearest(suite, tally, other.group) for m, other in enumerate(tallies) if m != n}
        below, above = near.pop(n - 1, None), near.pop(n + 1, None)
        found.append(
            GroupFeatures(
                group=tally.group,
                feature_C=tally.feature_C,
                layers=tuple(_lenses(suite, model, tally, baseline)),
                n_tokens=n_tokens,
                previous=None if below is None else below[1],
                next=None if above is None else above[1],
                elsewhere=nearest_elsewhere(dict(near.values())),
            )
        )
    return tuple(found)


def _nearest(suite: SAESuite, tally: GroupTally, other: LayerGroup) -> tuple[int, Nearest]:
    """Another group's features, at its layer that is closest to the group of the tally."""
    is_above = other.first > tally.group.last
    ours = tally.group.last if is_above else tally.group.first
    theirs = other.first if is_above else other.last
    return theirs, nearest_features(suite[ours].W_dec[tally.feature_C], suite[theirs].W_dec)


def _lenses(
    suite: SAESuite,
    model: HookedRootModule,
    tally: GroupTally,
    baseline: Mapping[str, SAE[Any]],
) -> Iterator[LayerFeatures]:
    """Each layer's, whose directions are those of the layer below unless the layers are aligned."""
    W_before, lens = None, None
    for of in tally.layers():
        sae = suite[of.layer]
        W_dec_CD = sae.W_dec.detach()[tally.feature_C]
        if W_before is None or not torch.equal(W_before, W_dec_CD):
            W_U_DV = unembedding(model, sae)
            lens = None if W_U_DV is None else logit_lens(W_dec_CD, W_U_DV)
            W_before = W_dec_CD
        theirs = baseline.get(suite.manifest.hook_template.hook_name(of.layer))
        near = None if theirs is None else nearest_features(W_dec_CD, theirs.W_dec)
        yield replace(of, lens=lens, baseline=near)


def _texts(model: HookedRootModule, groups: Sequence[GroupFeatures]) -> dict[int, str]:
    """The text of every token that is shown; its number where the model has no tokenizer."""
    parts = [torch.empty(0, dtype=torch.int32)]
    for of in (layer for group in groups for layer in group.layers):
        parts += [kept.token_CKW[kept.prompt_CK != NO_PROMPT] for kept in (of.top, of.sampled)]
        if of.lens is not None:
            parts += [of.lens.raised_CN, of.lens.lowered_CN]
    ids = torch.cat([part.reshape(-1).int() for part in parts]).unique().tolist()
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        return {token: f"<{token}>" for token in ids}
    # Decoded alone, a token of SentencePiece loses the space before it.
    pieces = map(str, tokenizer.convert_ids_to_tokens(ids))
    texts = ((piece.startswith("\u2581"), tokenizer.decode([n])) for piece, n in zip(pieces, ids))
    return {
        token: " " + text if has_space and not text.startswith(" ") else text
        for token, (has_space, text) in zip(ids, texts)
    }

"""Recomputes what a run and an evaluation say, with torch and transformers alone, in float64.

Nothing of sae_lens_groups, and nothing of SAELens: text becomes prompts in plain Python, the model runs
with plain hooks, and SAEs are read from a suite's files (`cfg.json`, `sae_weights.safetensors`).

Shapes: S prompts, T positions, D = d_in, F = d_sae.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer


@dataclass(frozen=True)
class Prompt:
    """Tokens, and the last row of the dataset that any of them is of."""

    tokens: tuple[int, ...]
    last_row: int


class Model:
    """A language model in float64, and its tokenizer."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.lm: Any = AutoModelForCausalLM.from_pretrained(folder).double().eval()

    def prompts(self, texts: Sequence[str], context_size: int, first_row: int = 0) -> list[Prompt]:
        """Texts from `first_row` on, one after the other with BOS before each and each prompt."""
        found, tokens = list[Prompt](), list[int]()
        bos = self.tokenizer.bos_token_id
        for row in range(first_row, len(texts)):
            left = self.tokenizer(texts[row]).input_ids
            left = left[1:] if left[:1] == [bos] else left
            is_first = True
            while left:
                if (not tokens or is_first) and left[0] != bos:
                    tokens.append(bos)
                is_first = False
                n = context_size - len(tokens)
                tokens, left = tokens + left[:n], left[n:]
                if len(tokens) == context_size:
                    found.append(Prompt(tuple(tokens), row))
                    tokens = []
        return found

    @torch.no_grad()
    def losses(self, tokens_ST: torch.Tensor) -> torch.Tensor:
        """Of each next token, (S, T - 1)."""
        log_probs_STV = self.lm(tokens_ST).logits.log_softmax(-1)
        return -log_probs_STV[:, :-1].gather(-1, tokens_ST[:, 1:, None]).squeeze(-1)

    @torch.no_grad()
    def activations(
        self, tokens_ST: torch.Tensor, hook_names: Sequence[str]
    ) -> dict[str, torch.Tensor]:
        """What these modules give, (S, T, D) each."""
        found: dict[str, torch.Tensor] = {}
        with contextlib.ExitStack() as hooks:
            for name in hook_names:
                hooks.enter_context(
                    self._hook(name, lambda x, name=name: found.setdefault(name, x))
                )
            self.lm(tokens_ST)
        return found

    def losses_with(self, tokens_ST: torch.Tensor, hook_name: str, x_STD: torch.Tensor) -> Any:
        """The losses with this in the place of what the module gives."""
        with self._hook(hook_name, lambda _: x_STD):
            return self.losses(tokens_ST)

    @contextlib.contextmanager
    def _hook(self, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
        def hook(_: Any, __: Any, output: Any) -> Any:
            is_tuple = isinstance(output, tuple)
            changed = change(output[0] if is_tuple else output)
            return (changed, *output[1:]) if is_tuple else changed

        handle = self.lm.get_submodule(name).register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()


class PlainSAE:
    """A layer's SAE, as its folder has it."""

    def __init__(self, folder: Path) -> None:
        self.cfg: dict[str, Any] = json.loads((folder / "cfg.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "sae_weights.safetensors")
        self.weights = {name: value.double() for name, value in weights.items()}

    @property
    def metadata(self) -> dict[str, Any]:
        return self.cfg["metadata"]

    def features(self, x_STD: torch.Tensor) -> torch.Tensor:
        """(S, T, F)"""
        w = self.weights
        x_STD = x_STD - w["b_dec"] if self.cfg["apply_b_dec_to_input"] else x_STD
        pre_STF = x_STD @ w["W_enc"] + w["b_enc"]
        if self.cfg.get("rescale_acts_by_decoder_norm"):
            pre_STF = pre_STF * w["W_dec"].norm(dim=-1)
        if self.cfg["architecture"] == "jumprelu":
            return pre_STF * (pre_STF > w["threshold"])
        largest = pre_STF.topk(self.cfg["k"], dim=-1)
        return torch.zeros_like(pre_STF).scatter(-1, largest.indices, largest.values.relu())

    def reconstruction(self, features_STF: torch.Tensor) -> torch.Tensor:
        """(S, T, D)"""
        w = self.weights
        if self.cfg.get("rescale_acts_by_decoder_norm"):
            features_STF = features_STF / w["W_dec"].norm(dim=-1)
        return features_STF @ w["W_dec"] + w["b_dec"]


def saes_of(suite: Path) -> dict[str, PlainSAE]:
    """By hook name."""
    names = json.loads((suite / "suite.json").read_text(encoding="utf-8"))["layers"]
    return {name: PlainSAE(suite / name) for name in names}


def reasons(
    model: Model,
    tokens_ST: torch.Tensor,
    activations: Mapping[str, torch.Tensor],
    suites: Sequence[Mapping[str, PlainSAE]],
) -> dict[str, torch.Tensor]:
    """Which tokens any of the suites was not trained for, (S, T), by why; the first reason counts."""
    by_position, special, by_norm = (torch.zeros_like(tokens_ST, dtype=torch.bool) for _ in "123")
    for name, sae in ((name, sae) for suite in suites for name, sae in suite.items()):
        is_trained_T = torch.zeros(tokens_ST.shape[1], dtype=torch.bool)
        is_trained_T[slice(*(sae.metadata["seqpos_slice"] or [None]))] = True
        by_position |= ~is_trained_T
        excluded = sae.metadata["exclude_special_tokens"]
        ids = model.tokenizer.all_special_ids if excluded is True else excluded or []
        special |= torch.isin(tokens_ST, torch.tensor(ids, dtype=torch.long))
        by_norm |= activations[name].norm(dim=-1) > sae.metadata["max_activation_norm"]
    special &= ~by_position
    return {
        "by_position": by_position,
        "special": special,
        "by_norm": by_norm & ~by_position & ~special,
    }


def scores(
    model: Model, tokens_ST: torch.Tensor, hook_name: str, x_STD: torch.Tensor, sae: PlainSAE,
    kept_ST: torch.Tensor,
) -> dict[str, float]:  # fmt: skip
    """Of one SAE on the tokens that are kept; the others pass through the model as they are."""
    features_STF = sae.features(x_STD)
    x_hat_STD = sae.reconstruction(features_STF)
    x_BD, x_hat_BD = x_STD[kept_ST], x_hat_STD[kept_ST]
    mse = (x_BD - x_hat_BD).square().sum(-1).mean()
    counted = kept_ST[:, :-1]
    clean = model.losses(tokens_ST)[counted].mean()
    replaced_STD = torch.where(kept_ST[..., None], x_hat_STD, x_STD)
    with_sae = model.losses_with(tokens_ST, hook_name, replaced_STD)[counted].mean()
    ablated = model.losses_with(tokens_ST, hook_name, torch.zeros_like(x_STD))[counted].mean()
    found = {
        "explained_variance": 1 - mse / (x_BD - x_BD.mean(0)).square().sum(-1).mean(),
        "mse": mse,
        "l0": (features_STF[kept_ST] != 0).sum(-1).double().mean(),
        "ce_loss_without_sae": clean,
        "ce_loss_with_sae": with_sae,
        "ce_loss_with_ablation": ablated,
        "ce_loss_score": (ablated - with_sae) / (ablated - clean),
    }
    return {name: value.item() for name, value in found.items()}

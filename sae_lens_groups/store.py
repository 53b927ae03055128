"""One language-model pass feeds every group: each token gives each group one row.

Shapes: B tokens of one LM batch or training batch, D = d_in.
"""

import warnings
from collections.abc import Generator, Iterator
from typing import Any, Self

import numpy as np
import torch
from sae_lens import ActivationsStore
from sae_lens.config import HfDataset
from sae_lens.training.mixing_buffer import multi_hook_concat_split_iter
from sae_lens.util import get_special_token_ids
from safetensors.torch import load_file
from tqdm.auto import tqdm
from transformer_lens import HookedRootModule
from typing_extensions import override

from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.errors import ConfigError, DatasetError
from sae_lens_groups.layers import HookTemplate, LayerGroup


class GroupActivationsStore(ActivationsStore):
    """SAELens's store, which draws one layer of each group for every token.

    The draw comes before the shuffle buffer (Group-SAE, arXiv 2410.21508, section 3), so the
    buffer holds one row per token and group however many layers a group has. A row is the raw
    activation and, as one more column, the position of its layer in the group.
    """

    groups: tuple[LayerGroup, ...]
    template: HookTemplate
    # A generator per group, apart from torch's own: a group's draws depend on the seed and on its
    # layers alone, and groups of one layer leave SAELens's stream of random numbers as it is.
    _draws: dict[str, torch.Generator]

    @classmethod
    def from_group_config(
        cls,
        model: HookedRootModule,
        cfg: GroupSAERunnerConfig[Any],
        groups: tuple[LayerGroup, ...],
        dataset: HfDataset,
    ) -> Self:
        """A store that captures every layer of `groups` and reads `dataset` from its start."""
        hook_names = cfg.hook_template.hook_names(groups)
        assert cfg.act_store_device is not None  # SAELens's config fills it in
        device = torch.device(cfg.act_store_device)
        store = cls.from_config_multi_hook(
            model,
            dataset=dataset,
            hook_names=hook_names,
            hook_d_ins=dict.fromkeys(hook_names, int(cfg.sae.d_in)),
            hook_head_indices=dict.fromkeys(hook_names, cfg.hook_head_index),
            streaming=cfg.streaming,
            context_size=cfg.context_size,
            n_batches_in_buffer=cfg.n_batches_in_buffer,
            total_training_tokens=cfg.training_tokens,
            store_batch_size_prompts=cfg.store_batch_size_prompts,
            train_batch_size_tokens=cfg.train_batch_size_tokens,
            prepend_bos=cfg.prepend_bos,
            device=device,
            dtype=cfg.dtype,
            model_kwargs=cfg.model_kwargs,
            autocast_lm=cfg.autocast_lm,
            dataset_trust_remote_code=cfg.dataset_trust_remote_code,
            seqpos_slice=cfg.seqpos_slice,
            exclude_special_tokens=_excluded_tokens(cfg.exclude_special_tokens, model, device),
            disable_concat_sequences=cfg.disable_concat_sequences,
            sequence_separator_token=cfg.sequence_separator_token,
            activations_mixing_fraction=cfg.activations_mixing_fraction,
            use_chat_formatting=cfg.use_chat_formatting,
        )
        assert isinstance(store, cls)
        store.groups = groups
        store.template = cfg.hook_template
        store._draws = {group.name: _draw_generator(cfg.seed, group) for group in groups}
        return store

    def packed_batches(self) -> Generator[dict[str, torch.Tensor], None, None]:
        """Endless shuffled training batches: group name -> (train_batch_size_tokens, D + 1).

        SAELens's own mixing buffer shuffles them, all groups by the same permutation.
        """
        yield from multi_hook_concat_split_iter(
            buffer_size=self._buffer_size,
            batch_size=self.train_batch_size_tokens,
            activations_loader=self.drawn_rows(),
            hook_names=[group.name for group in self.groups],
            mix_fraction=self.activations_mixing_fraction,
        )

    def drawn_rows(self) -> Iterator[dict[str, torch.Tensor]]:
        """Per LM batch, group name -> (B, D + 1): the drawn layer's activation of each token.

        Columns 0 to D-1 are the activation, column D is the layer's position in the group.
        """
        for batch_tokens in self._token_batches():
            yield self._drawn_from(batch_tokens)

    def layer_rows(self, n_tokens: int, description: str) -> Iterator[list[torch.Tensor]]:
        """Per LM batch, (B, D) of every layer of every group, lowest first, without a draw.

        Ends with the batch that brings `n_tokens` rows, or where the dataset does. Shows a progress
        bar with this description.
        """
        n_read = 0
        with tqdm(
            total=n_tokens, desc=description, unit="tok", unit_scale=True, leave=False
        ) as bar:
            while n_read < n_tokens:
                try:
                    batch_tokens = self.get_batch_tokens(raise_at_epoch_end=True)
                except StopIteration:
                    return
                rows_LBD = self._layer_rows_of(batch_tokens)
                yield rows_LBD
                n_read += len(rows_LBD[0])
                bar.update(min(len(rows_LBD[0]), n_tokens - bar.n))

    def _layer_rows_of(self, batch_tokens: torch.Tensor) -> list[torch.Tensor]:
        activations = self._captured(batch_tokens)
        kept_B = self._kept_positions(batch_tokens)
        layers = [activations[name] for name in self.template.hook_names(self.groups)]
        if len(kept_B) == len(layers[0]):
            return layers
        return [acts_BD[kept_B.to(acts_BD.device)] for acts_BD in layers]

    def _drawn_from(self, batch_tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        # Every layer's activations are alive in here, so nothing waits for the next batch here.
        activations = self._captured(batch_tokens)
        kept_B = self._kept_positions(batch_tokens)
        return {group.name: self._draw(group, activations, kept_B) for group in self.groups}

    @property
    def _buffer_size(self) -> int:
        return self.n_batches_in_buffer * self.training_context_size

    def _token_batches(self) -> Iterator[torch.Tensor]:
        """LM batches of tokens, (prompts, context), starting over where the dataset ends."""
        n_tokens = 0
        is_first_epoch = self.n_dataset_processed == 0  # a resumed run starts in the middle
        while True:
            try:
                batch_tokens = self.get_batch_tokens(raise_at_epoch_end=True)
            except StopIteration:
                if is_first_epoch and n_tokens < self._buffer_size:
                    raise DatasetError(self._too_small(n_tokens)) from None
                warnings.warn(
                    f"the dataset ended after {n_tokens:,} tokens and starts over", stacklevel=1
                )
                is_first_epoch = False
                batch_tokens = self.get_batch_tokens()
            n_tokens += batch_tokens[:, slice(*self.seqpos_slice)].numel()
            yield batch_tokens

    def _too_small(self, n_tokens: int) -> str:
        return (
            f"the dataset gives {n_tokens:,} tokens in whole batches of "
            f"{self.store_batch_size_prompts} prompts, less than the shuffle buffer of "
            f"n_batches_in_buffer * context_size = {self._buffer_size:,} tokens; use more data, "
            "or lower n_batches_in_buffer or store_batch_size_prompts"
        )

    def _captured(self, batch_tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        """One LM pass: hook name -> (B, D) of this batch, before special tokens are excluded."""
        captured = self.get_multi_hook_activations(batch_tokens)
        self._require_width(captured)
        return {name: acts.reshape(-1, self.d_in) for name, acts in captured.items()}

    def _require_width(self, captured: dict[str, torch.Tensor]) -> None:
        if any(acts.ndim != 3 for acts in captured.values()):  # (prompts, context, D)
            raise ConfigError(
                f"hook_head_index is {self.hook_head_index}, but {self.template} has no heads; "
                "leave hook_head_index out"
            )
        widths = {name: acts.shape[-1] for name, acts in captured.items()}
        wrong = {name: width for name, width in widths.items() if width != self.d_in}
        if not wrong:
            return
        if len(set(widths.values())) > 1:
            listed = ", ".join(f"{name} is {width} wide" for name, width in widths.items())
            raise ConfigError(
                f"the layers differ in width: {listed}; one run trains layers of one width, "
                "so name only those in layer_groups"
            )
        width = next(iter(wrong.values()))
        raise ConfigError(
            f"d_in is {self.d_in}, but {self.template} is {width} wide; set d_in to {width}"
        )

    def _kept_positions(self, batch_tokens: torch.Tensor) -> torch.Tensor:
        """Where the tokens to train on lie among all B of an LM batch."""
        token_ids = batch_tokens[:, slice(*self.seqpos_slice)].reshape(-1)
        if self.exclude_special_tokens is None:
            return torch.arange(len(token_ids), device=token_ids.device)
        excluded = self.exclude_special_tokens.to(token_ids.device)
        return (~torch.isin(token_ids, excluded)).nonzero().squeeze(1)

    def _draw(
        self, group: LayerGroup, activations: dict[str, torch.Tensor], kept_B: torch.Tensor
    ) -> torch.Tensor:
        drawn_B = torch.randint(len(group), (len(kept_B),), generator=self._draws[group.name])
        first = activations[self.template.hook_name(group.first)]
        rows_BD = first.new_empty(len(kept_B), self.d_in + 1)
        for position, layer in enumerate(group.layers):
            layer_acts_BD = activations[self.template.hook_name(layer)]
            is_drawn_B = (drawn_B == position).to(rows_BD.device)
            drawn_from_B = kept_B.to(rows_BD.device)[is_drawn_B].to(layer_acts_BD.device)
            rows_BD[is_drawn_B, : self.d_in] = layer_acts_BD[drawn_from_B].to(rows_BD.device)
        rows_BD[:, self.d_in] = drawn_B.to(rows_BD.device)
        return rows_BD.to(self.device)  # only what was drawn leaves the language model's device

    @override
    def state_dict(self) -> dict[str, torch.Tensor]:
        draws = {f"draws.{name}": draw.get_state() for name, draw in self._draws.items()}
        return {**super().state_dict(), **draws}

    @override
    def load(self, file_path: str) -> None:
        super().load(file_path)
        state = load_file(file_path)
        for name, draw in self._draws.items():
            draw.set_state(state[f"draws.{name}"])


def split_packed(packed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A packed batch (B, D + 1) as contiguous rows (B, D) and layer positions (B,)."""
    return packed[:, :-1].contiguous(), packed[:, -1].long()


def _draw_generator(seed: int, group: LayerGroup) -> torch.Generator:
    mixed = np.random.SeedSequence([seed, group.first, group.last]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(mixed[0]) >> 1)


def _excluded_tokens(
    setting: bool | list[int], model: HookedRootModule, device: torch.device
) -> torch.Tensor | None:
    """The token ids that SAELens's `exclude_special_tokens` setting means."""
    if setting is False:
        return None
    ids = get_special_token_ids(model.tokenizer) if setting is True else setting  # type: ignore[arg-type]
    return torch.tensor(ids, dtype=torch.long, device=device)

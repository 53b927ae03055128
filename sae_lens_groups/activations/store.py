"""One language-model pass feeds every group: each token gives each group its rows.

Shapes: B tokens of one LM batch, N = B * layers_per_token rows of it, D = d_in.
"""

import itertools
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import Any, Self

import torch
from sae_lens.config import HfDataset
from tqdm.auto import tqdm
from transformer_lens import HookedRootModule
from typing_extensions import override

from sae_lens_groups.activations.dataset import CountedRows
from sae_lens_groups.activations.draw import RowSink, draw_generator, draw_positions
from sae_lens_groups.activations.fit import require_positions, widths_at
from sae_lens_groups.activations.hooks import run_to_last_hook
from sae_lens_groups.activations.shuffle_buffer import ShuffleBuffer
from sae_lens_groups.activations.side_by_side import SideBySide, Take
from sae_lens_groups.activations.token_store import TokenStore, excluded_tokens
from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.errors import ConfigError, NonFiniteActivationsError
from sae_lens_groups.layers import HookTemplate, LayerGroup

_LIMIT, ROWS_READ = "norm_limit.", "rows_read"


class GroupActivationsStore(TokenStore):
    """SAELens's store, which draws layers of each group for every token.

    The draw comes before the shuffle buffer (Group-SAE, arXiv 2410.21508, section 3), so the
    buffer holds the same rows per token and group however many layers a group has. A layer's
    activations are drawn from as soon as the language model has computed them, so they are never
    all in memory.
    """

    groups: tuple[LayerGroup, ...]
    template: HookTemplate
    rows: CountedRows
    # A generator per group, apart from torch's own: a group's draws depend on the seed and on its
    # layers alone, and groups of one layer leave SAELens's stream of random numbers as it is.
    _draws: dict[str, torch.Generator]
    places: dict[str, tuple[LayerGroup, int]]
    """Of each hook: the group, and the position in it, of the layer."""
    _norm_limits: dict[str, float]
    _is_compiled: bool
    shared: SideBySide | None = None
    """With whom it shares the passes of the language model."""

    @classmethod
    def from_group_config(
        cls,
        model: HookedRootModule,
        cfg: GroupSAERunnerConfig[Any],
        groups: tuple[LayerGroup, ...],
        dataset: HfDataset | CountedRows,
        norm_limits: Mapping[str, float] | None = None,
    ) -> Self:
        """A store that captures every layer of `groups` and reads `dataset` from its start.

        A token whose norm is beyond the limit of any of the hooks is left out, of all layers alike:
        groups stay in step, and pairs of layers have the same tokens.
        """
        hook_names = cfg.hook_template.hook_names(groups)
        assert cfg.act_store_device is not None  # SAELens's config fills it in
        device = torch.device(cfg.act_store_device)
        rows: Any = CountedRows.of(dataset)
        store = cls.from_config_multi_hook(
            model,
            dataset=rows,
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
            exclude_special_tokens=excluded_tokens(cfg.exclude_special_tokens, model, device),
            disable_concat_sequences=cfg.disable_concat_sequences,
            sequence_separator_token=cfg.sequence_separator_token,
            activations_mixing_fraction=cfg.activations_mixing_fraction,
            use_chat_formatting=cfg.use_chat_formatting,
        )
        assert isinstance(store, cls)
        store.rows = rows
        store._set_up(cfg, groups, norm_limits or {})
        require_positions(model, cfg.context_size)
        store._require_width()
        return store

    def _set_up(
        self,
        cfg: GroupSAERunnerConfig[Any],
        groups: tuple[LayerGroup, ...],
        norm_limits: Mapping[str, float],
    ) -> None:
        """What SAELens's own store has not."""
        self.groups = groups
        self.template = cfg.hook_template
        self._draws = {group.name: draw_generator(cfg.seed, group) for group in groups}
        self.places = {
            cfg.hook_template.hook_name(layer): (group, position)
            for group in groups
            for position, layer in enumerate(group.layers)
        }
        self.rows_per_token = cfg.layers_per_token
        self._norm_limits = dict(norm_limits)
        self._is_compiled = cfg.compile_llm

    @property
    def begins_with_bos(self) -> bool:
        """Whether prompts do: of text where it is prepended, tokens as the first rows have it."""
        bos = getattr(getattr(self.model, "tokenizer", None), "bos_token_id", None)
        if bos is None or not self.is_dataset_tokenized:
            return bos is not None and self.prepend_bos
        first_rows = itertools.islice(self.rows.dataset, 16)
        return all(int(row[self.tokens_column][0]) == bos for row in first_rows)

    def shuffle_buffer(self, generator: torch.Generator | None = None) -> ShuffleBuffer:
        """An empty buffer for the drawn rows, which this generator permutes."""
        return ShuffleBuffer(
            self.buffer_size,
            self.store_batch_size_prompts * self.training_context_size * self.rows_per_token,
            self.train_batch_size_tokens,
            self.activations_mixing_fraction,
            self.d_in,
            generator,
        )

    def fill(self, sink: RowSink) -> Generator[None, None, None]:
        """Writes one LM batch after another into a buffer, as often as it is asked to."""
        for batch_tokens in self.token_batches():
            self.write_drawn(batch_tokens, sink)
            yield

    def pass_over(self, n_tokens: int) -> None:
        """Leaves the draws as drawing from an LM batch with so many tokens to train on does."""
        self._draw(n_tokens)

    def _draw(self, n_tokens: int) -> dict[str, torch.Tensor]:
        """The positions (N,) of the layers drawn from each group."""
        return {
            group.name: draw_positions(
                len(group), n_tokens, self.rows_per_token, self._draws[group.name]
            ).flatten()
            for group in self.groups
        }

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
                    batch_tokens = self.next_tokens(raise_at_epoch_end=True)
                except StopIteration:
                    return
                rows_LBD = self._layer_rows_of(batch_tokens)
                yield rows_LBD
                n_read += len(rows_LBD[0])
                bar.update(min(len(rows_LBD[0]), n_tokens - bar.n))

    def _layer_rows_of(self, batch_tokens: torch.Tensor) -> list[torch.Tensor]:
        activations = self.captured_layers(batch_tokens)
        kept_B = self.ordinary_positions(batch_tokens, activations)
        layers = [activations[name] for name in self.template.hook_names(self.groups)]
        if len(kept_B) == len(layers[0]):
            return layers
        return [acts_BD[kept_B.to(acts_BD.device)] for acts_BD in layers]

    def ordinary_positions(
        self, batch_tokens: torch.Tensor, activations: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """Where the tokens to train on lie, given all layers' activations (B, D)."""
        kept_B = self.kept_positions(batch_tokens)
        if not self._norm_limits:
            return kept_B
        is_outlier = [self._is_outlier(name, acts_BD) for name, acts_BD in activations.items()]
        return kept_B[~_any(is_outlier)[kept_B.cpu()].to(kept_B.device)]

    def _is_outlier(self, hook_name: str, acts_BD: torch.Tensor) -> torch.Tensor:
        return norms_of(acts_BD) > self._norm_limits.get(hook_name, torch.inf)

    def write_drawn(self, batch_tokens: torch.Tensor, sink: RowSink) -> None:
        """Draws rows from every layer of an LM batch and writes them into a buffer."""
        kept_B = self.kept_positions(batch_tokens).cpu()
        is_outlier: list[torch.Tensor] = []
        slot_N = sink.reserve(len(kept_B) * self.rows_per_token)
        drawn = self._draw(len(kept_B))
        is_finite: dict[str, torch.Tensor] = {}

        def take(hook_name: str, acts: torch.Tensor) -> None:
            group, position = self.places[hook_name]
            row_N = (drawn[group.name] == position).nonzero().squeeze(1)
            token_N = kept_B[row_N // self.rows_per_token]
            acts_BD = acts.reshape(-1, self.d_in)
            if self._norm_limits:
                is_outlier.append(self._is_outlier(hook_name, acts_BD))
            rows_ND = acts_BD.index_select(0, token_N.to(acts.device))
            is_finite[hook_name] = are_finite(rows_ND)
            sink.write(group.name, slot_N[row_N], self.as_served(rows_ND), position)

        self.capture(batch_tokens, take)
        self.require_finite(is_finite)
        if is_outlier:  # known only once the last layer is
            left_out_N = _any(is_outlier)[kept_B].repeat_interleave(self.rows_per_token)
            sink.release(slot_N[left_out_N])

    def as_served(self, rows_ND: torch.Tensor) -> torch.Tensor:
        """Drawn rows on the store's device: nothing else leaves the language model's."""
        return rows_ND.to(self.device)

    def capture(self, batch_tokens: torch.Tensor, take: Take) -> None:
        """Calls `take` with each hook's name and its activations (prompts, context, D), in one pass."""
        if self._is_compiled:  # what SAELens compiles is run_with_cache
            for hook_name, acts in self.get_multi_hook_activations(batch_tokens).items():
                take(hook_name, acts)
            return

        def take_trained_part(hook_name: str, acts: torch.Tensor) -> None:
            take(hook_name, self._trained_part(acts))

        if self.shared is not None:
            self.shared.capture(self, batch_tokens, take_trained_part)
        else:
            self.run_model(batch_tokens, self.places, take_trained_part)

    def run_model(self, batch_tokens: torch.Tensor, hook_names: Iterable[str], take: Take) -> None:
        """Calls `take` with each hook's name and whole activations."""
        with torch.autocast(
            batch_tokens.device.type, dtype=torch.bfloat16, enabled=self.autocast_lm
        ):
            run_to_last_hook(self.model, batch_tokens, list(hook_names), take, **self.model_kwargs)

    def _trained_part(self, acts: torch.Tensor) -> torch.Tensor:
        """Of a hook's activations the positions and heads that are trained on."""
        return self.of_heads(acts[:, slice(*self.seqpos_slice)])

    def trained_rows(self, acts: torch.Tensor) -> torch.Tensor:
        """Of a hook's whole activations the rows (B, D) that are trained on."""
        return self._trained_part(acts).reshape(-1, self.d_in)

    def of_heads(self, acts: torch.Tensor) -> torch.Tensor:
        """Of a hook's activations the head that is trained on, or all heads side by side."""
        if self.hook_head_index is not None:
            return acts[:, :, self.hook_head_index]
        return acts.flatten(2) if acts.ndim > 3 else acts

    def captured_layers(self, batch_tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        """One LM pass: hook name -> (B, D) of this batch, before special tokens are excluded."""
        layers: dict[str, torch.Tensor] = {}

        def take(hook_name: str, acts: torch.Tensor) -> None:
            layers[hook_name] = acts.reshape(-1, self.d_in)

        self.capture(batch_tokens, take)
        return layers

    def _require_width(self) -> None:
        widths = widths_at(self.model, self.places, self.hook_head_index, self.model_kwargs)
        if len(set(widths.values())) > 1:
            listed = ", ".join(f"{name} is {width} wide" for name, width in widths.items())
            raise ConfigError(
                f"the layers differ in width: {listed}; one run trains layers of one width, "
                "so name only those in layer_groups"
            )
        width = next(iter(widths.values()))
        if width != self.d_in:
            raise ConfigError(
                f"d_in is {self.d_in}, but {self.template} is {width} wide; set d_in to {width}"
            )

    def require_finite(self, is_finite: Mapping[str, torch.Tensor]) -> None:
        """Refuses activations of a layer that are not. Waits for the device, once per LM batch."""
        all_finite = torch.stack([finite.cpu() for finite in is_finite.values()])
        for hook_name, finite in zip(is_finite, all_finite.tolist(), strict=True):
            if not finite:
                group, position = self.places[hook_name]
                raise NonFiniteActivationsError(
                    f"the language model's activations at layer {group.layers[position]} (group "
                    f"{group.name}) hold NaN or infinity in the prompts before row "
                    f"{self.n_dataset_processed + 1} of the dataset; check the model's dtype and "
                    "autocast_lm, or leave the layer out of layer_groups"
                )

    @override
    def state_dict(self) -> dict[str, torch.Tensor]:
        """How much of the dataset was read, this time round and in all, and the draws."""
        limits = {
            _LIMIT + name: torch.tensor(n, dtype=torch.double)
            for name, n in self._norm_limits.items()
        }
        rows_read = torch.tensor(self.rows.n_read)
        draws = self.state_of_draws()
        return {**super().state_dict(), **draws, **limits, ROWS_READ: rows_read}

    def state_of_draws(self) -> dict[str, torch.Tensor]:
        """The part of `state_dict` that drawing changes."""
        return {f"draws.{name}": draw.get_state() for name, draw in self._draws.items()}

    @override
    def load_counts(self, state: Mapping[str, torch.Tensor]) -> None:
        """Goes on with the draws and the limits of a checkpoint, and its count of rows."""
        super().load_counts(state)
        n_read = int(state.get(ROWS_READ, self.n_dataset_processed + 1))  # of before 0.10
        self.rows.n_read = max(n_read, self.rows.n_read)
        self._norm_limits = {
            name: float(state[_LIMIT + name]) for name in self.places if _LIMIT + name in state
        }
        for name, draw in self._draws.items():
            draw.set_state(state[f"draws.{name}"])


def are_finite(acts: torch.Tensor) -> torch.Tensor:
    """Whether all activations are, as a tensor, for which nothing waits for the device."""
    # Their sum is, then: one look at each where torch's isfinite takes several.
    return acts.sum(dtype=torch.float32).isfinite()


def norms_of(acts_D: torch.Tensor) -> torch.Tensor:
    """The norm of each row (..., D)."""
    return acts_D.float().norm(dim=-1)


def _any(of_layers: list[torch.Tensor]) -> torch.Tensor:
    """Whether any layer says so, of each token, on the CPU."""
    return torch.stack([of_layer_B.cpu() for of_layer_B in of_layers]).any(dim=0)

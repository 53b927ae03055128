"""One LM pass, one row per token and group."""

from typing import Any

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from transformer_lens import HookedRootModule, HookedTransformer
from transformer_lens.hook_points import HookPoint

from sae_lens_groups.activations.batches import BatchStream
from sae_lens_groups.activations.draw import draw_positions
from sae_lens_groups.activations.shuffle_buffer import GroupBatch, ShuffleBuffer
from sae_lens_groups.activations.store import GroupActivationsStore
from sae_lens_groups.errors import ConfigError, DatasetError, NonFiniteActivationsError
from sae_lens_groups.train.prepare import settle

from .tiny import (
    CONTEXT_SIZE,
    D_IN,
    D_VOCAB,
    SMALL_LM_BATCHES,
    TableModel,
    group_config,
    make_model,
    make_tokens,
    sae_config,
)

pytestmark = pytest.mark.seam


def make_store(
    model: HookedRootModule, dataset: Dataset, layer_groups: str = "0-2,3", **changes: Any
) -> GroupActivationsStore:
    cfg = group_config(layer_groups, **{**SMALL_LM_BATCHES, **changes})
    groups = settle(cfg).groups_of(4)
    assert groups is not None
    return GroupActivationsStore.from_group_config(model, cfg, groups, dataset)


def drawn(store: GroupActivationsStore, n_lm_batches: int = 1) -> dict[str, GroupBatch]:
    """The rows of the first LM batches in the order of their tokens, by group."""
    # Serves every row it holds by itself, unshuffled.
    buffer = ShuffleBuffer(1, max_new_rows=9999, batch_size=1, mix_fraction=0, d_in=store.d_in)
    fills = store.fill(buffer)
    for _ in range(n_lm_batches):
        next(fills)
    rows = list(iter(buffer.next_batch, None))
    return {
        name: GroupBatch(*(torch.cat(parts) for parts in zip(*(row[name] for row in rows))))
        for name in rows[0]
    }


def layer_activations(
    store: GroupActivationsStore, batch_tokens: torch.Tensor
) -> dict[int, torch.Tensor]:
    """Layer -> (n_tokens, d_in): the activations of every token of an LM batch."""
    captured = store.get_multi_hook_activations(batch_tokens)
    return {
        layer: acts.reshape(-1, acts.shape[-1])
        for name, acts in captured.items()
        if (layer := store.template.layer_of(name)) is not None
    }


def test_every_row_is_one_layers_activation_of_its_token(
    model: HookedTransformer, tokens: Dataset
) -> None:
    rows = drawn(make_store(model, tokens))
    store = make_store(model, tokens)
    of_layer = layer_activations(store, store.get_batch_tokens())
    for group in store.groups:
        rows_BD, position_B = rows[group.name]
        assert len(rows_BD) == 4 * CONTEXT_SIZE
        for token, (row, position) in enumerate(zip(rows_BD, position_B.tolist())):
            layer = group.layers[position]
            assert torch.equal(row, of_layer[layer][token])
            others = [acts[token] for other, acts in of_layer.items() if other != layer]
            assert not any(torch.equal(row, other) for other in others)


def test_the_draw_is_uniform(model: HookedTransformer, tokens: Dataset) -> None:
    _, position_B = drawn(make_store(model, tokens), n_lm_batches=40)["layers_0-2"]
    counts = position_B.bincount(minlength=3)
    n = 40 * 4 * CONTEXT_SIZE
    assert counts.sum() == n
    assert counts.tolist() == [898, 838, 824]  # under this seed
    # Five standard deviations of a binomial of probability 1/3.
    assert ((counts - n / 3).abs() < 5 * (n * 2 / 9) ** 0.5).all()


def test_neighbouring_tokens_draw_independently(model: HookedTransformer, tokens: Dataset) -> None:
    _, position_B = drawn(make_store(model, tokens), n_lm_batches=40)["layers_0-2"]
    pairs = (position_B[:-1] * 3 + position_B[1:]).bincount(minlength=9)
    n = len(position_B) - 1
    assert ((pairs - n / 9).abs() < 5 * (n * 8 / 81) ** 0.5).all()


def test_the_same_seed_draws_the_same_and_another_seed_does_not(
    model: HookedTransformer, tokens: Dataset
) -> None:
    first, again, other = (
        drawn(make_store(model, tokens, seed=seed))["layers_0-2"] for seed in (7, 7, 8)
    )
    assert torch.equal(first.rows_BD, again.rows_BD)
    assert not torch.equal(first.rows_BD, other.rows_BD)


def test_a_groups_draws_do_not_depend_on_the_other_groups(
    model: HookedTransformer, tokens: Dataset
) -> None:
    alone = drawn(make_store(model, tokens, "0-2"))["layers_0-2"]
    beside = drawn(make_store(model, tokens, "0-2,3"))["layers_0-2"]
    assert torch.equal(alone.rows_BD, beside.rows_BD)


def test_drawing_leaves_torchs_own_random_numbers_alone(
    model: HookedTransformer, tokens: Dataset
) -> None:
    store = make_store(model, tokens)
    torch.manual_seed(3)
    drawn(store)
    after = torch.rand(4)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(4))


def test_excluded_tokens_give_no_rows(model: HookedTransformer, tokens: Dataset) -> None:
    excluded = list(range(0, D_VOCAB, 2))
    store = make_store(model, tokens, exclude_special_tokens=excluded)
    batch_tokens = make_store(model, tokens).get_batch_tokens()
    kept = (batch_tokens % 2 == 1).reshape(-1)
    rows_BD, _ = drawn(store)["layers_3"]
    of_layer = layer_activations(store, batch_tokens)
    assert torch.equal(rows_BD, of_layer[3][kept])


def test_seqpos_slice_keeps_only_its_positions(model: HookedTransformer, tokens: Dataset) -> None:
    store = make_store(model, tokens, seqpos_slice=(2, -3))
    whole = make_store(model, tokens)
    acts = whole.get_multi_hook_activations(whole.get_batch_tokens())[whole.template.hook_name(3)]
    rows_BD, _ = drawn(store)["layers_3"]
    assert torch.equal(rows_BD, acts[:, 2:-3].reshape(-1, D_IN))


@pytest.mark.parametrize("hook_head_index", [None, 1])
def test_hook_z_is_flattened_or_one_head_taken(
    model: HookedTransformer, tokens: Dataset, hook_head_index: int | None
) -> None:
    d_in = D_IN if hook_head_index is None else 8
    store = make_store(
        model,
        tokens,
        hook_name="blocks.0.attn.hook_z",
        hook_head_index=hook_head_index,
        sae=sae_config(d_in=d_in),
    )
    batch_tokens = make_store(model, tokens).get_batch_tokens()
    z = model.run_with_cache(batch_tokens, prepend_bos=False)[1]["blocks.3.attn.hook_z"]
    expected = z.flatten(2) if hook_head_index is None else z[:, :, hook_head_index]
    rows_BD, _ = drawn(store)["layers_3"]
    assert torch.equal(rows_BD, expected.reshape(-1, d_in))


def test_a_batch_keeps_each_row_with_its_layer_through_the_buffer(
    model: HookedTransformer, tokens: Dataset
) -> None:
    store = make_store(model, tokens)
    reference = make_store(model, tokens)
    of_layer: dict[int, set[tuple[float, ...]]] = {layer: set() for layer in range(4)}
    for _ in range(20):
        for layer, acts in layer_activations(reference, reference.get_batch_tokens()).items():
            of_layer[layer] |= {tuple(row) for row in acts.tolist()}
    batches = BatchStream(store)
    for _ in range(6):
        batch = next(batches)
        for group in store.groups:
            rows_BD, position_B = batch[group.name]
            assert rows_BD.shape == (32, D_IN)
            for row, position in zip(rows_BD.tolist(), position_B.tolist()):
                assert tuple(row) in of_layer[group.layers[position]]


def test_groups_share_one_shuffle(model: HookedTransformer, tokens: Dataset) -> None:
    """Rows at the same place of two groups' batches come from the same token."""
    store = make_store(model, tokens, "2,3")
    reference = make_store(model, tokens)
    pairs: set[tuple[float, ...]] = set()
    for _ in range(10):
        acts = layer_activations(reference, reference.get_batch_tokens())
        pairs |= {tuple(row) for row in torch.cat([acts[2], acts[3]], dim=1).tolist()}
    batch = next(BatchStream(store))
    both = torch.cat([batch["layers_2"].rows_BD, batch["layers_3"].rows_BD], dim=1)
    assert {tuple(row) for row in both.tolist()} <= pairs


def test_rows_keep_the_models_dtype(model: HookedTransformer, tokens: Dataset) -> None:
    rows_BD, position_B = drawn(make_store(model, tokens, autocast_lm=True))["layers_0-2"]
    assert rows_BD.dtype == torch.float32  # the residual stream is not cast
    store = make_store(model, tokens, hook_name="blocks.0.hook_attn_out", autocast_lm=True)
    assert drawn(store)["layers_3"].rows_BD.dtype == torch.bfloat16
    assert position_B.dtype == torch.long


def test_the_dataset_starts_over_where_it_ends(model: HookedTransformer) -> None:
    store = make_store(model, make_tokens(n_prompts=12))
    with pytest.warns(UserWarning, match="the dataset ended after 192 tokens and starts over"):
        rows = drawn(store, n_lm_batches=4)["layers_3"].rows_BD
    assert torch.equal(rows[: 4 * CONTEXT_SIZE], rows[12 * CONTEXT_SIZE :])


def test_a_dataset_smaller_than_the_buffer_is_refused(model: HookedTransformer) -> None:
    store = make_store(model, make_tokens(n_prompts=7))
    with pytest.raises(DatasetError) as caught:
        drawn(store, n_lm_batches=2)
    assert str(caught.value) == (
        "the dataset gives 64 tokens in whole batches of 4 prompts, less than the shuffle buffer "
        "of n_batches_in_buffer * 16 positions of a prompt = 128 tokens; use more data, or lower "
        "n_batches_in_buffer or store_batch_size_prompts"
    )


def test_another_width_than_d_in_is_refused(model: HookedTransformer, tokens: Dataset) -> None:
    with pytest.raises(ConfigError) as caught:
        make_store(model, tokens, sae=sae_config(d_in=32))
    assert str(caught.value) == (
        "d_in is 32, but blocks.{layer}.hook_resid_post is 16 wide; set d_in to 16"
    )


def test_layers_of_different_width_are_refused(tokens: Dataset) -> None:
    class Uneven(TableModel):
        def forward(self, tokens: torch.Tensor, **_: Any) -> torch.Tensor:
            for width, block in zip((16, 16, 32, 16), self.blocks):
                block.hook_resid_post(torch.zeros(*tokens.shape, width))  # type: ignore[operator]
            return tokens

    with pytest.raises(ConfigError) as caught:
        make_store(Uneven(torch.zeros(4, D_VOCAB, D_IN)), tokens, "2-3")
    assert str(caught.value) == (
        "the layers differ in width: blocks.2.hook_resid_post is 32 wide, "
        "blocks.3.hook_resid_post is 16 wide; one run trains layers of one width, so name only "
        "those in layer_groups"
    )


@pytest.mark.parametrize("layer_groups", ["0-2,3", "each"])
def test_a_compiled_language_model_gives_the_same_rows(
    model: HookedTransformer, tokens: Dataset, layer_groups: str
) -> None:
    """Compiled, all layers are captured before the draw; else each as soon as it is there."""
    plain = drawn(make_store(model, tokens, layer_groups), n_lm_batches=3)
    compiled = drawn(make_store(model, tokens, layer_groups, compile_llm=True), n_lm_batches=3)
    for name, batch in plain.items():
        assert torch.equal(batch.rows_BD, compiled[name].rows_BD)
        assert torch.equal(batch.position_B, compiled[name].position_B)


def test_the_language_model_is_left_after_its_last_layer(
    model: HookedTransformer, tokens: Dataset
) -> None:
    reached: list[str] = []

    def note(_: torch.Tensor, hook: HookPoint) -> None:
        assert hook.name is not None
        reached.append(hook.name)

    names = [f"blocks.{layer}.hook_resid_post" for layer in range(4)]
    store = make_store(model, tokens, "0,1-2")
    with model.hooks(fwd_hooks=[(name, note) for name in [*names, "ln_final.hook_scale"]]):
        drawn(store)
    assert reached == names[:3]
    assert not model.hook_dict[names[0]].fwd_hooks  # nothing stays behind


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_non_finite_activations_are_not_served_and_name_the_layer(broken: float) -> None:
    model = make_model()
    with torch.no_grad():
        model.blocks[2].mlp.b_out[3] = broken  # pyright: ignore[reportIndexIssue, reportAttributeAccessIssue]
    batches = BatchStream(make_store(model, make_tokens(), "0-1,2-3"))
    with pytest.raises(NonFiniteActivationsError) as caught:
        next(batches)
    assert str(caught.value) == (
        "the language model's activations at layer 2 (group layers_2-3) hold NaN or infinity in "
        "the prompts before row 4 of the dataset; check the model's dtype and autocast_lm, "
        "or leave the layer out of layer_groups"
    )


class TestLayersPerToken:
    @given(st.integers(1, 6), st.integers(1, 9), st.integers(0, 2**32))
    def test_no_layer_is_drawn_twice_before_all_were(
        self, n_layers: int, layers_per_token: int, seed: int
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        drawn_NM = draw_positions(n_layers, 50, layers_per_token, generator)
        assert drawn_NM.shape == (50, layers_per_token)
        for row in drawn_NM.tolist():
            counts = [row.count(position) for position in range(n_layers)]
            assert max(counts) - min(counts) <= 1

    def test_every_layer_is_as_likely(self) -> None:
        drawn_NM = draw_positions(5, 20_000, 2, torch.Generator().manual_seed(0))
        expected = 20_000 * 2 / 5
        assert ((drawn_NM.flatten().bincount() - expected).abs() < 5 * expected**0.5).all()

    def test_a_token_gives_rows_of_different_layers(
        self, model: HookedTransformer, tokens: Dataset
    ) -> None:
        store = make_store(model, tokens, "0-2,3", layers_per_token=2)
        of_layer = layer_activations(store, make_store(model, tokens).get_batch_tokens())
        batch = drawn(store)
        rows_BD, position_B = batch["layers_0-2"]
        assert len(rows_BD) == 2 * 4 * CONTEXT_SIZE
        assert (position_B[::2] != position_B[1::2]).all()
        for index, (row, position) in enumerate(zip(rows_BD, position_B.tolist())):
            assert torch.equal(row, of_layer[position][index // 2])
        alone_BD = batch["layers_3"].rows_BD
        assert torch.equal(alone_BD, of_layer[3].repeat_interleave(2, dim=0))

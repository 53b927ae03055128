"""Whether a loaded language model gives the activations that are asked for."""

import contextlib
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from sae_lens.load_model import HookedProxyLM
from transformer_lens import HookedRootModule, HookedTransformer

from sae_lens_groups.activations.hooks import run_to_last_hook
from sae_lens_groups.activations.model import n_layers_of, require_configuration, without_weights
from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.errors import ConfigError, HookNameError, first_line, quoted
from sae_lens_groups.layers import HookTemplate, LayerGroup, layer_in

# TransformerLens computes these hooks only where the model is told to.
_FLAGS = {
    "hook_mlp_in": "use_hook_mlp_in",
    "hook_attn_in": "use_attn_in",
    "hook_result": "use_attn_result",
    **{f"hook_{name}_input": "use_split_qkv_input" for name in "qkv"},
}
_TABLE_OF_POSITIONS = re.compile("wpe|position|pos_?emb")
# A prompt to look at shapes with: of a length that no number of heads is likely to be.
_N_TOKENS = 7


def require_hooks(
    model: HookedRootModule, template: HookTemplate, groups: Iterable[LayerGroup]
) -> None:
    """Refuses layers of the groups that have no hook in this model."""
    missing = [name for name in template.hook_names(groups) if name not in model.hook_dict]
    if missing:
        raise HookNameError(
            f"the model has no hook at {', '.join(missing)}; leave these layers out of "
            "layer_groups, or load the model with hooks there"
        )


def require_width(
    model: HookedRootModule, hook_name: str, hook_head_index: int | None, d_in: int
) -> None:
    """Refuses a model whose activations at a hook are not as wide as an SAE's input."""
    width = width_at(model, hook_name, hook_head_index)
    if width != d_in:
        raise ConfigError(
            f"the SAE at {hook_name} takes activations of width {d_in}, and this model's are "
            f"{width} wide; give the model that the suite was trained on"
        )


def width_at(model: HookedRootModule, hook_name: str, hook_head_index: int | None) -> int:
    """The width d_in of the activations at a hook; of one head where an index is given."""
    return widths_at(model, [hook_name], hook_head_index)[hook_name]


def widths_at(
    model: HookedRootModule,
    hook_names: Iterable[str],
    hook_head_index: int | None,
    model_kwargs: Mapping[str, Any] | None = None,
) -> dict[str, int]:
    """The width d_in at each hook, from a pass over a few tokens.

    Raises:
        HookNameError: the pass does not reach a hook, or it gives no row for each token.
        ConfigError: hook_head_index names no head, or model_kwargs are not the model's.
    """
    hook_names, shapes = list(hook_names), dict[str, torch.Size]()
    n_tokens = min(_N_TOKENS, _n_positions(model)[0] or _N_TOKENS)
    device = next(model.parameters()).device
    tokens = torch.zeros(1, n_tokens, dtype=torch.long, device=device)

    def take(hook_name: str, acts: torch.Tensor) -> None:
        shapes[hook_name] = acts.shape

    try:
        run_to_last_hook(model, tokens, hook_names, take, **(model_kwargs or {}))
    except TypeError as error:
        if not model_kwargs:
            raise
        raise ConfigError(
            f"model_kwargs {quoted(model_kwargs)} cannot be passed to the model: "
            f"{first_line(error)}; they are the arguments of its forward pass"
        ) from error
    for name in hook_names:
        if name not in shapes:
            flag = _FLAGS.get(name.rsplit(".", 1)[-1])
            to_do = f"call model.set_{flag}(True) and pass the model as override_model"
            raise HookNameError(
                f"the model's pass does not compute {name}; {to_do if flag else 'name another hook'}"
            )
    return {name: _width(name, shape, n_tokens, hook_head_index) for name, shape in shapes.items()}


def _width(hook_name: str, shape: torch.Size, n_tokens: int, head_index: int | None) -> int:
    if len(shape) < 3 or shape[:2] != (1, n_tokens):
        raise HookNameError(
            f"{hook_name} gives activations of shape {tuple(shape)} for a prompt of {n_tokens} "
            "tokens, and an SAE takes a row of each token: (prompts, tokens, width); name a hook "
            "such as the layer's output"
        )
    if head_index is None:
        return math.prod(shape[2:])
    if len(shape) == 3:
        raise ConfigError(
            f"hook_head_index is {head_index}, but {hook_name} has no heads; leave "
            "hook_head_index out"
        )
    if not -shape[2] <= head_index < shape[2]:
        raise ConfigError(
            f"hook_head_index is {head_index}, but {hook_name} has the heads 0 to {shape[2] - 1}"
        )
    return shape[-1]


def require_positions(model: HookedRootModule, context_size: int) -> None:
    """Refuses prompts that are longer than the model can read.

    Warns where it can read them, but was not made for that length.
    """
    n_positions, is_limit = _n_positions(model)
    if n_positions is None or context_size <= n_positions:
        return
    if is_limit:
        raise ConfigError(
            f"context_size is {context_size}, and the model has {n_positions} positions; lower "
            "context_size"
        )
    warnings.warn(
        f"context_size is {context_size}, and the model was made for prompts of up to "
        f"{n_positions} tokens: what it computes beyond is unlike what it was trained to",
        stacklevel=2,
    )


def _n_positions(model: HookedRootModule) -> tuple[int | None, bool]:
    """How many positions a model is made for, and whether it cannot read more."""
    if isinstance(model, HookedTransformer):
        return model.cfg.n_ctx, model.cfg.positional_embedding_type != "alibi"
    if not isinstance(model, HookedProxyLM):
        return None, False
    config: Any = model.model.config
    n = getattr(config.get_text_config(), "max_position_embeddings", None)
    # Learned or written out, one row for each; OPT has two more.
    tables = [*model.model.named_parameters(), *model.model.named_buffers()]
    is_limit = any(
        _TABLE_OF_POSITIONS.search(name) and n is not None and len(table) in (n, n + 2)
        for name, table in tables
        if table.ndim == 2
    )
    return n, is_limit


def width_before_loading(cfg: GroupSAERunnerConfig[Any]) -> int | None:
    """The width d_in of the activations at the hook, from the model's configuration alone.

    None where that does not tell.
    """
    try:
        with _shapes_alone():
            return width_at(without_weights(cfg), cfg.hook_name, cfg.hook_head_index)
    except Exception:  # `known_width` says why; so does loading the model, where d_in is given
        return None


def known_width(cfg: GroupSAERunnerConfig[Any], or_else: str = "") -> int:
    """The same, where it has to be known; `or_else` is what helps where it cannot be.

    Raises:
        ConfigError: the model's configuration cannot be read, or does not tell.
        HookNameError: the model has no such hook.
    """
    width = width_before_loading(cfg)
    if width is not None:
        return width
    require_configuration(cfg, or_else)
    try:
        with _shapes_alone():
            n_layers = n_layers_of(without_weights(cfg), cfg.hook_template)
    except HookNameError:
        raise
    except Exception:  # a model that only its weights can make
        n_layers = None
    if n_layers is not None and (layer := layer_in(cfg.hook_name)) >= n_layers:
        raise HookNameError(
            f"hook_name {cfg.hook_name!r} is at layer {layer}, and the model's {n_layers} layers "
            f"are 0-{n_layers - 1}"
        )
    raise ConfigError(
        f"the configuration of the model {cfg.model_name!r} does not tell how wide its "
        f"activations at {cfg.hook_name} are; check hook_name{or_else}"
    )


@contextlib.contextmanager
def _shapes_alone() -> Iterator[None]:
    """Shapes without numbers, so that nothing takes memory."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), warnings.catch_warnings(action="ignore"):
        yield

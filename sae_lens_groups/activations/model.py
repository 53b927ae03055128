"""The language model: how many layers it has, before and after it is loaded, and how it is loaded."""

import inspect
import warnings
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, cast

import torch
from sae_lens.load_model import HookedProxyLM, load_model
from transformer_lens import HookedRootModule

from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.errors import ConfigError, HookNameError
from sae_lens_groups.layers import HookTemplate, LayerGroup

# What a setting of the loader leads to that it does not take, or whose package is not there.
_OF_A_SETTING = (AssertionError, AttributeError, ImportError, KeyError, TypeError)
CAN_CHOOSE_HOOKS = "hook_names" in inspect.signature(load_model).parameters


def n_layers_before_loading(cfg: GroupSAERunnerConfig[Any]) -> int | None:
    """The number of layers that have the hook, from the model's configuration alone.

    None where that does not tell.

    Raises:
        HookNameError: the model has no such hook.
    """
    from transformer_lens.loading_from_pretrained import get_pretrained_model_config

    try:
        if cfg.model_class_name == "HookedTransformer":
            return get_pretrained_model_config(cfg.model_name).n_layers
        if cfg.model_class_name != "AutoModelForCausalLM":
            return None
        with torch.device("meta"):  # without weights
            model = _transformers_model(cfg)
    except Exception:  # any failure here shows again, with its own message, when the model loads
        return None
    return n_layers_among([name for name, _ in model.named_modules()], cfg.hook_template)


def require_configuration(cfg: GroupSAERunnerConfig[Any], or_else: str = "") -> None:
    """Refuses a model whose configuration cannot be read.

    `or_else` is what helps where the model can be loaded all the same, as from a GGUF file.
    """
    from transformer_lens.loading_from_pretrained import get_pretrained_model_config

    try:
        if cfg.model_class_name == "HookedTransformer":
            get_pretrained_model_config(cfg.model_name)
        else:
            _transformers_configuration(cfg)
    except Exception as error:
        why = _why_not_loaded(error, cfg.model_class_name, cfg.model_name, {})
        raise ConfigError(why + (or_else if isinstance(error, OSError) else "")) from error


def is_same_model(one: str, other: str) -> bool:
    """Whether two names, of the Hub's or of TransformerLens's, or of a folder, end in the same model."""
    return len({Path(official_name(name) or name).name for name in (one, other)}) == 1


def official_name(name: str) -> str | None:
    """What a model is called on the Hub, by TransformerLens's names; None where it knows none."""
    from transformer_lens.loading_from_pretrained import get_official_model_name

    try:
        return get_official_model_name(name)
    except ValueError:
        return None


def without_weights(cfg: GroupSAERunnerConfig[Any]) -> HookedRootModule:
    """The model as its configuration says, with random weights and no tokenizer."""
    if cfg.model_class_name == "HookedTransformer":
        from transformer_lens import HookedTransformer
        from transformer_lens.loading_from_pretrained import get_pretrained_model_config

        model_config = get_pretrained_model_config(cfg.model_name, device="cpu")
        model_config.tokenizer_name = None  # which would be fetched
        return HookedTransformer(model_config, move_to_device=False)
    return HookedProxyLM(_transformers_model(cfg), cast("Any", None))


def _transformers_model(cfg: GroupSAERunnerConfig[Any]) -> torch.nn.Module:
    """The model as its configuration says, on the device that torch is told."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(_transformers_configuration(cfg))


def _transformers_configuration(cfg: GroupSAERunnerConfig[Any]) -> Any:
    from transformers import AutoConfig

    given = cfg.model_from_pretrained_kwargs or {}
    where = {name: given[name] for name in ("revision", "trust_remote_code") if name in given}
    return AutoConfig.from_pretrained(cfg.model_name, **where)


def load_hooked_model(
    cfg: GroupSAERunnerConfig[Any], groups: tuple[LayerGroup, ...] | None
) -> HookedRootModule:
    """The model as SAELens loads it, with hooks at the layers of `groups` (None: at all layers)."""
    return load_for_sites([(cfg, groups)])


def load_for_sites(
    sites: Sequence[tuple[GroupSAERunnerConfig[Any], tuple[LayerGroup, ...] | None]],
) -> HookedRootModule:
    """The same model for several configs, with the hooks of all."""
    names = [_hook_names(*site) for site in sites]
    known = [each for each in names if each is not None]
    cfg, _ = sites[0]
    if cfg.autocast_lm:
        _warn_if_emulated("autocast_lm asks for", cfg.llm_device, "leave autocast_lm out")
    return load_with_hooks(
        cfg.model_class_name,
        cfg.model_name,
        # Without names SAELens hooks every module there is.
        list(dict.fromkeys(chain(*known))) if len(known) == len(names) else None,
        cfg.llm_device,
        cfg.model_from_pretrained_kwargs,
    )


def _hook_names(
    cfg: GroupSAERunnerConfig[Any], groups: tuple[LayerGroup, ...] | None
) -> list[str] | None:
    if groups is None and (n_layers := n_layers_before_loading(cfg)) is not None:
        groups = (LayerGroup(0, n_layers - 1),)
    return None if groups is None else cfg.hook_template.hook_names(groups)


def load_with_hooks(
    model_class_name: str,
    model_name: str,
    hook_names: list[str] | None,
    device: str | None,
    model_from_pretrained_kwargs: dict[str, Any] | None,
) -> HookedRootModule:
    """SAELens's `load_model`, without keys and values that nobody reads.

    Also where it cannot choose hooks yet: 6.44 hooks every module.

    Raises:
        ConfigError: the model cannot be loaded, with these settings or at all.
    """
    chosen = {"hook_names": hook_names} if CAN_CHOOSE_HOOKS else {}
    try:
        model = load_model(
            model_class_name,
            model_name,
            device=device,
            model_from_pretrained_kwargs=model_from_pretrained_kwargs,
            **chosen,
        )
    except (*_OF_A_SETTING, OSError, RuntimeError, ValueError) as error:
        kwargs = model_from_pretrained_kwargs or {}
        raise ConfigError(_why_not_loaded(error, model_class_name, model_name, kwargs)) from error
    _keep_no_keys_and_values(model)
    weights = next(model.parameters(), None)
    if weights is not None and weights.dtype == torch.bfloat16:
        float32 = 'give --model_from_pretrained_kwargs \'{"dtype": "float32"}\''
        _warn_if_emulated(f"the weights of {model_name!r} are", weights.device.type, float32)
    return model


def _warn_if_emulated(what: str, device: str | None, to_do: str) -> None:
    # torch says no more than this; with AVX512 its kernels for bfloat16 are fast.
    if device == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2":
        warnings.warn(
            f"{what} bfloat16, which this processor (AVX2) has no instructions for: its products "
            f"take up to 100 times as long as float32's; {to_do}",
            stacklevel=3,
        )


def _why_not_loaded(
    error: Exception, model_class_name: str, model_name: str, kwargs: Mapping[str, Any]
) -> str:
    reason = " ".join(str(error).split()).rstrip(".")
    named = [
        name
        for name, value in kwargs.items()
        if name in reason or (isinstance(value, str) and value in reason)
    ]
    if isinstance(error, _OF_A_SETTING) and not named:
        named = [name for name in kwargs if name != "center_writing_weights"]  # SAELens's own
    if named and not isinstance(error, OSError):
        return (
            f"model_from_pretrained_kwargs: {model_class_name} cannot be loaded with "
            f"{', '.join(f'{name}={kwargs[name]!r}' for name in named)}: {reason}"
        )
    to_do = "model_name says where it lies, and model_class_name how to load it"
    if "Unknown model class" in reason:
        to_do = "model_class_name is AutoModelForCausalLM, HookedTransformer or HookedMamba"
    if "official model names" in reason:  # several hundred follow
        reason = f"{model_class_name} knows its own models only"
        to_do = "give model_class_name AutoModelForCausalLM, and a hook_name such as model.layers.3"
    return f"the model {model_name!r} cannot be loaded: {reason}; {to_do}"


def _keep_no_keys_and_values(model: HookedRootModule) -> None:
    """Transformers would keep them in every layer for the tokens that follow; here none do."""
    for module in model.modules():
        config = getattr(module, "config", None)
        if config is not None and hasattr(config, "use_cache"):
            config.use_cache = False


def compile_if_asked(cfg: GroupSAERunnerConfig[Any], model: HookedRootModule) -> None:
    """Compiles what SAELens's store calls of a model, which is run_with_cache and never the module."""
    if cfg.compile_llm:
        model.run_with_cache = torch.compile(  # type: ignore[method-assign]
            model.run_with_cache, mode=cfg.llm_compilation_mode
        )


def n_layers_of(model: HookedRootModule, template: HookTemplate) -> int:
    """The number of layers that have this hook in a loaded model."""
    if isinstance(model, HookedProxyLM):
        # Its hook_dict may hold only the hooks it was asked for; the modules are all there.
        return n_layers_among([name for name, _ in model.model.named_modules()], template)
    return n_layers_among(model.hook_dict, template)


def n_layers_among(names: Iterable[str], template: HookTemplate) -> int:
    """The highest layer of the template among these names, plus one."""
    names = list(names)
    layers = {layer for name in names if (layer := template.layer_of(name)) is not None}
    if not layers:
        raise HookNameError(
            f"the model has no hook named {template}; {_similar_names(names, template)}"
        )
    return max(layers) + 1


def d_vocab(model: HookedRootModule) -> int:
    """The number of token ids the model knows."""
    if isinstance(model, HookedProxyLM):
        return model.model.get_input_embeddings().num_embeddings  # type: ignore[operator]
    return model.cfg.d_vocab  # type: ignore[union-attr]


def _similar_names(names: list[str], template: HookTemplate) -> str:
    """What the hooks of layer 0 are called in this model."""
    last_parts = template.after.rsplit(".", 1)[-1]
    layer_0 = [name for name in names if ".0." in f"{name}."]
    likely = [name for name in layer_0 if last_parts and name.endswith(last_parts)] or layer_0
    likely.sort(key=lambda name: name.count("."))  # the residual stream before what is inside
    return f"its hooks at layer 0 are: {', '.join(likely[:12]) or 'none'}"

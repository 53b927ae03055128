"""The files of the page. Its data are scripts, because a page on disk may load nothing else.

Shapes: C features that were looked at, L layers of the group.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from sae_lens_groups import files
from sae_lens_groups.features.directions import Elsewhere, Nearest
from sae_lens_groups.features.kept import Examples
from sae_lens_groups.features.result import (
    HISTOGRAM_EDGES,
    STRATA,
    GroupFeatures,
    LayerFeatures,
    SuiteFeatures,
    stratum,
)
from sae_lens_groups.suite import SAESuite

FEATURES_PER_FILE = 64
_LONGEST_TOKEN = 60
_SHOWN_BY_NAME = {"\n": "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}", "\t": "\N{RIGHTWARDS ARROW}"}

_templates = Environment(
    loader=PackageLoader("sae_lens_groups.features", "page"),
    autoescape=select_autoescape(["html"]),
    undefined=StrictUndefined,
)


def page_files(
    suite: SAESuite, found: SuiteFeatures, *, show_texts: bool = True
) -> Iterator[tuple[str, str]]:
    """Each file's name in the folder and its text."""
    model = Path(suite.manifest.model_name).name
    shown = {"model": model, "found": found, "show_texts": show_texts}
    yield files.FEATURES_PAGE, _templates.get_template("index.html").render(shown)
    yield _script("suite", "suite", _suite(suite, found, show_texts))
    texts = {token: visible(text) for token, text in found.texts.items()}
    yield _script("tokens", "tokens", texts)
    for of in found.groups:
        yield _script(of.group.name, "group", of.group.name, _columns(of))
        for n, start in enumerate(range(0, len(of.feature_C), FEATURES_PER_FILE)):
            end = min(start + FEATURES_PER_FILE, len(of.feature_C))
            cards = [_card(of, c, show_texts) for c in range(start, end)]
            yield _script(f"{of.group.name}-{n}", "cards", of.group.name, n, cards)


def visible(text: str) -> str:
    """A token as it can stand anywhere: what has no shape, or turns text round, by its number."""
    shown = "".join(
        _SHOWN_BY_NAME.get(one) or (one if one.isprintable() else f"\\u{ord(one):04x}")
        for one in text[:_LONGEST_TOKEN]
    )
    return shown + "\N{HORIZONTAL ELLIPSIS}" * (len(text) > _LONGEST_TOKEN)


def _script(name: str, call: str, *arguments: Any) -> tuple[str, str]:
    """A file that hands data to the page when it is loaded; ASCII, however it is read."""
    written = ",".join(json.dumps(each, separators=(",", ":")) for each in arguments)
    return f"{files.FEATURES_DATA}/{name}.js", f"given.{call}({written})\n"


def _suite(suite: SAESuite, found: SuiteFeatures, show_texts: bool) -> dict[str, Any]:
    shown = ("layer", "group", "explained_variance", "ce_loss_score", "l0", "dead_features")
    table = suite.to_dataframe()
    scores = table[[name for name in shown if name in table]]
    folder = suite.source_folder
    return {
        "groups": [{"name": of.group.name, "layers": [*of.group.layers]} for of in found.groups],
        "per_file": FEATURES_PER_FILE,
        "edges": HISTOGRAM_EDGES,
        "strata": STRATA,
        "shows_texts": show_texts,
        "baseline": found.baseline_name,
        "scores": {name: [_short(value) for value in scores[name]] for name in scores},
        "has_report": folder is not None and (folder / files.REPORT).is_file(),
    }


def _columns(of: GroupFeatures) -> dict[str, Any]:
    """What the list of features is sorted and searched by, a value per feature."""
    first = of.layers[0].lens
    entropy_C = of.spread.entropy_F
    columns = {
        "index": of.feature_C.tolist(),
        "density": [[_short(n / of.n_tokens) for n in at.n_firings_C.tolist()] for at in of.layers],
        "highest": [[_short(value) for value in at.highest_C.tolist()] for at in of.layers],
        "entropy": [None if math.isnan(value) else _short(float(value)) for value in entropy_C],
        "peaks": [_peak_token(of, c) for c in range(len(of.feature_C))],
    }
    return columns if first is None else columns | {"raised": first.raised_CN[:, 0].tolist()}


def _peak_token(of: GroupFeatures, c: int) -> int | None:
    """The token at which a feature fires highest, on the layer where it does so in most places."""
    at = max(of.layers, key=lambda one: int(one.n_firings_C[c])).top
    if not (places := at.places(c)):
        return None
    k = places[0]
    return int(at.token_CKW[c, k, int(at.position_CK[c, k] - at.start_CK[c, k])])


def _card(of: GroupFeatures, c: int, show_texts: bool) -> dict[str, Any]:
    """Everything else of one feature."""
    card: dict[str, Any] = {
        "histogram": [_without_zeros(at.histogram_CB[c].tolist()) for at in of.layers],
        "previous": _near(of.previous, c),
        "next": _near(of.next, c),
        "elsewhere": _elsewhere(of.elsewhere, c),
        "baseline": [_near(at.baseline, c) for at in of.layers],
        "lens": [_lens(at, c) for at in of.layers],
    }
    if all(one == card["lens"][0] for one in card["lens"]):  # layers that are not aligned
        card["lens"] = card["lens"][:1]
    if show_texts:
        texts: dict[tuple[int, int], list[Any]] = {}
        highest_L = torch.stack([at.highest_C[c] for at in of.layers]).clamp(min=1e-30)
        at_layers = [_examples(at, highest_L, c, texts) for at in of.layers]
        card |= {"texts": list(texts.values()), "examples": at_layers}
    return card


def _examples(
    at: LayerFeatures,
    highest_L: torch.Tensor,
    c: int,
    texts: dict[tuple[int, int], list[Any]],
) -> list[list[int]]:
    """Per stratum which of the feature's texts, which layers share; new ones are added."""
    highest = float(at.highest_C[c])
    found: dict[str, dict[int, None]] = {name: {} for name in STRATA}
    for kept in (at.top, at.sampled):
        for k in kept.places(c):
            key = (int(kept.prompt_CK[c, k]), int(kept.start_CK[c, k]))
            if key not in texts:
                texts[key] = _text(kept, highest_L, c, k)
            name = "top" if kept is at.top else stratum(float(kept.peak_CK[c, k]), highest)
            found[name].setdefault(list(texts).index(key))
    return [list(of_it) for of_it in found.values()]


def _text(kept: Examples, highest_L: torch.Tensor, c: int, k: int) -> list[Any]:
    """The tokens, and per layer where the feature fires: position, activation, position, ...

    Activations are thousandths of the feature's highest on the layer, which take little space.
    """
    shares_LW = (1000 * kept.activation_CKLW[c, k] / highest_L[:, None]).round().int().tolist()
    layers = [
        [part for n, share in enumerate(shares) if share for part in (n, share)]
        for shares in shares_LW
    ]
    return [kept.token_CKW[c, k].tolist(), layers]


def _without_zeros(counts: list[int]) -> list[int]:
    """The first bin that holds any, and the counts from there to the last that does."""
    filled = [n for n, count in enumerate(counts) if count]
    return [filled[0], *counts[filled[0] : filled[-1] + 1]] if filled else []


def _near(nearest: Nearest | Elsewhere | None, c: int) -> list[list[float]] | None:
    if nearest is None:
        return None
    cosines = [_short(value) for value in nearest.cosine_CN[c].tolist()]
    return [list(pair) for pair in zip(nearest.feature_CN[c].tolist(), cosines)]


def _elsewhere(nearest: Elsewhere | None, c: int) -> list[list[float]] | None:
    """Layer, feature and cosine of each."""
    near = _near(nearest, c)
    if nearest is None or near is None:
        return None
    return [[layer, *pair] for layer, pair in zip(nearest.layer_CN[c].tolist(), near)]


def _lens(at: LayerFeatures, c: int) -> list[list[list[float]]] | None:
    """Tokens raised and lowered, each with its logit."""
    if at.lens is None:
        return None
    lens = at.lens
    both = ((lens.raised_CN, lens.raised_by_CN), (lens.lowered_CN, lens.lowered_by_CN))
    return [
        [[token, _short(by)] for token, by in zip(tokens[c].tolist(), bys[c].tolist())]
        for tokens, bys in both
    ]


def _short(value: Any) -> Any:
    """A number with three digits that count, which are all that the page shows."""
    if not isinstance(value, float):
        return value.item() if hasattr(value, "item") else value
    if not math.isfinite(value):
        return None
    return float(f"{value:.3g}")

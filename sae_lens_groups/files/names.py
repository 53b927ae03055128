"""The names of files and folders, and one table of them: what each file is of, and what is done with it."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

SUITE = "suite.json"
GROUPS = "groups"
PLAN = "plan.json"
PLAN_PAGE = "plan.html"
PLAN_PICTURE = "plan.png"
EVALUATION = "evaluation.csv"
EVALUATION_FOLDER = "evaluation"
ALL_RESULTS = "all_eval_results"
FEATURE_LAYERS = "feature_layers.csv"
MISSED_FEATURES = "missed_features.csv"
FAITHFULNESS = "faithfulness.csv"
LAYER_TABLE = "layers.md"
EVALUATION_SETTINGS = "settings.json"
EARLIER_EVALUATION = "earlier_evaluation"
REPORT = "report.html"
FEATURES_FOLDER = "features"
FEATURES_PAGE = "index.html"
FEATURES_TABLE = "features.csv"
FEATURES_DATA = "data"
CARD = "README.md"
CURVES = "training_curves.csv"
TRANSFER = "transfer.json"
CACHE = "cached_activations.json"
SWEEP = "sweep.json"
SWEEP_PAGE = "sweep.html"
SWEEP_SCORES = "sweep.csv"
CHECKSUMS = "checksums.json"
CHECKPOINT = "checkpoint.json"
RECIPE = "recipe.json"  # beside the parts of an unfinished suite
# SAELens's names, written out because importing SAELens takes seconds.
RUNNER_CFG = "runner_cfg.json"
SAE_CFG = "cfg.json"
SAE_WEIGHTS = "sae_weights.safetensors"
SPARSITY = "sparsity.safetensors"
SCALER = "activation_scaler.json"
TRAINER_STATE = "trainer_state.pt"
STORE_STATE = "activations_store_state.safetensors"
SHUFFLE_BUFFER = "shuffle_buffer.safetensors"
STEP_STATE = "step_state.safetensors"
LAYER_STATISTICS = "layer_statistics.safetensors"
WHITENING_MATRICES = "activation_whitening.safetensors"
ALIGNMENT = "alignment.safetensors"

_WEIGHTS = ".safetensors"
IF_OWN = f"; if you changed it yourself, delete {CHECKSUMS}"


def is_weights(name: str) -> bool:
    """Whether a file holds tensors, which are read as numbers and as nothing else."""
    return name.endswith(_WEIGHTS)


def group_folder(group: str) -> str:
    """Where a suite keeps the SAE of the group of this name."""
    return f"{GROUPS}/{group}"


def layer_scaler_folder(layer: int) -> str:
    """Where a checkpoint keeps one layer's scaler, inside its group's folder."""
    return f"layer_{layer}"


Part = Literal["facts", "layers", "groups", "whole", "features"]


@dataclass(frozen=True)
class FileKind:
    """A file, or one for each of several things."""

    path: str
    """Inside its folder; what stands in `<>` differs from one to the next."""
    of: Literal["suite", "plan", "cache", "checkpoint", "sweep"]
    written_by: Literal["train", "evaluate", "features", "publish", "plan", "cache"]
    fetched_with: Part | None = None
    """With which part of a suite on the Hub it is fetched. The facts come with every part."""
    has_checksum: bool = True
    """Whether it never changes once it is written."""


def _suite(path: str, part: Part) -> FileKind:
    return FileKind(path, "suite", "train", part)


def _scores(path: str) -> FileKind:
    return FileKind(path, "suite", "evaluate", "whole", has_checksum=False)


def _features(path: str) -> FileKind:
    name = f"{FEATURES_FOLDER}/{path}"
    return FileKind(name, "suite", "features", "features", has_checksum=False)


def _checkpoint(path: str) -> FileKind:
    return FileKind(path, "checkpoint", "train")


# What stands for a part of a path, as far as the layers and groups are not known.
_PARTS = {
    "<hook_name>": r"[^/]+",
    "<setting>": r"[^./][^/]*",
    "<group>": r"layers_\d+(?:-\d+)?",
    "<n>": r"\d+",
    "<model>": r"[^./][^/]*",
    "<dataset>": r"[^/]*",
    "<shard>": r"\d+-of-\d+",
}
_IN_GROUP = group_folder("<group>")
_SCALED = "layer_<n>"
FILES = (
    _suite(SUITE, "facts"),
    _suite(RUNNER_CFG, "facts"),
    _suite(CURVES, "layers"),
    FileKind(CHECKSUMS, "suite", "train", "facts", has_checksum=False),
    # It is there in every repository of SAEs, so the Hub's client finds something to fetch.
    FileKind(CARD, "suite", "publish", "facts", has_checksum=False),
    *(_suite(f"<hook_name>/{name}", "layers") for name in (SAE_CFG, SAE_WEIGHTS, SPARSITY)),
    *(_suite(f"{_IN_GROUP}/{name}", "groups") for name in (SAE_CFG, SAE_WEIGHTS)),
    *(
        _suite(f"{_IN_GROUP}/{_SCALED}/{name}", "groups")
        for name in (SCALER, WHITENING_MATRICES, ALIGNMENT)
    ),
    _scores(EVALUATION),
    _scores(REPORT),
    *(
        _scores(f"{EVALUATION_FOLDER}/{name}")
        for name in (
            *(FEATURE_LAYERS, MISSED_FEATURES, FAITHFULNESS, LAYER_TABLE, EVALUATION_SETTINGS),
            *(f"{ALL_RESULTS}.csv", f"{ALL_RESULTS}.json"),
            "<model>-<hook_name>_<n>_<dataset>.json",
        )
    ),
    *(_features(name) for name in (FEATURES_PAGE, FEATURES_TABLE)),
    *(
        _features(f"{FEATURES_DATA}/{name}.js")
        for name in ("suite", "tokens", "<group>", "<group>-<n>")
    ),
    *(FileKind(name, "plan", "plan") for name in (PLAN, PLAN_PAGE, PLAN_PICTURE)),
    *(
        FileKind(name, "cache", "cache")
        for name in (CACHE, "data-<shard>.arrow", "dataset_info.json", "state.json")
    ),
    FileKind(SWEEP, "sweep", "train"),
    *(
        FileKind(name, "sweep", "evaluate", has_checksum=False)
        for name in (SWEEP_PAGE, SWEEP_SCORES)
    ),
    *(
        _checkpoint(name)
        for name in (CHECKPOINT, CHECKSUMS, RUNNER_CFG, CURVES, TRANSFER, PLAN, STORE_STATE)
    ),
    *(
        _checkpoint(f"{sae}/{name}")
        for sae in ("<group>", "<setting>/<group>")
        for name in (
            *(SAE_CFG, SAE_WEIGHTS, SPARSITY, TRAINER_STATE, SCALER),
            *(LAYER_STATISTICS, SHUFFLE_BUFFER, STEP_STATE),
            *(f"{_SCALED}/{name}" for name in (SCALER, WHITENING_MATRICES, ALIGNMENT)),
        )
    ),
)
"""Every file that a run, an evaluation, a plan, a cache or a sweep leaves."""


def find_file(path: str, of: str, **parts: Iterable[str]) -> FileKind | None:
    """What a file of a folder is; None for one that is none of ours.

    Args:
        path: inside the folder.
        of: what the folder is: a suite, a plan, a cache, a checkpoint or a sweep.
        parts: what the parts of its path may be, such as `hook_name=["blocks.0.hook_resid_post"]`.
    """
    known = {f"<{name}>": "|".join(map(re.escape, texts)) for name, texts in parts.items()}
    kinds = (kind for kind in FILES if kind.of == of)
    return next((kind for kind in kinds if _pattern(kind.path, known).fullmatch(path)), None)


def _pattern(path: str, known: Mapping[str, str]) -> re.Pattern[str]:
    stands_for = {**_PARTS, **known}
    pieces = re.split(r"(<\w+>)", path)
    return re.compile(
        "".join(f"(?:{stands_for[p]})" if p in stands_for else re.escape(p) for p in pieces)
    )


def is_of_evaluation(name: str, hook_names: Iterable[str]) -> bool:
    """Whether a file in `evaluation/` is one that our evaluation wrote."""
    return find_file(f"{EVALUATION_FOLDER}/{name}", "suite", hook_name=hook_names) is not None


def is_of_features(path: str) -> bool:
    """Whether a file of a suite is one that `features` wrote."""
    kind = find_file(path, "suite")
    return kind is not None and kind.written_by == "features"


_REWRITTEN = {kind.path.partition("/")[0] for kind in FILES if not kind.has_checksum}


def is_covered(name: str) -> bool:
    """Whether a file of a suite never changes once it is written, so that it has a checksum."""
    return PurePosixPath(name).parts[0] not in _REWRITTEN


def fetched_with(part: str) -> list[str]:
    """What of a suite is fetched from the Hub with one of its parts, as the Hub's client takes it.

    Of folders all that is in them; those of layers are named one by one.
    """
    tops = (kind.path.partition("/") for kind in FILES if kind.fetched_with == part)
    names = (f"{top}/*" if inside else top for top, _, inside in tops)
    return list(dict.fromkeys(name for name in names if not name.startswith("<")))


def _names(before: str) -> tuple[str, ...]:
    """The names of a suite's files that lie there."""
    paths = (kind.path.rpartition("/") for kind in FILES if kind.of == "suite")
    return tuple(name for folder, _, name in paths if folder == before)


OF_A_LAYER = _names("<hook_name>")
BESIDE_THE_LAYERS = tuple(name for name in _names("") if name not in (SUITE, CHECKSUMS, CARD))

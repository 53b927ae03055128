"""What stands in public for a suite's values, by their keys: names for paths, nothing for accounts."""

import contextlib
import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from sae_lens_groups.errors import LayerGroupsError
from sae_lens_groups.files import is_local_path, last_name, without_run_id
from sae_lens_groups.layers import format_layer_groups
from sae_lens_groups.plan import PlanFile, parse_layer_groups
from sae_lens_groups.saved import SuiteManifest

_MODEL, _DATASET = "model_name", "dataset_path"
_EVALUATED = "dataset"
# What these name is a folder even where it looks like a name on the Hub.
_FOLDERS = frozenset(
    ("output_path", "checkpoint_path", "resume_from_checkpoint", "cached_activations_path")
)
_PLACES = _FOLDERS | {_MODEL, _DATASET, _EVALUATED, "init_from", "from_pretrained_path"}
# Of the settings that go through to a model's own loader.
_ENDS_OF_PLACES = ("_dir", "_directory", "_file", "_folder", "_path")
_ACCOUNT = ("wandb_entity", "wandb_id")
_NO_ID = "00000000"
# A string of a JSON text; the second part is there where it is a key.
_JSON_STRING = re.compile(r'("[^"\\]*(?:\\.[^"\\]*)*")(\s*:)?')


@dataclass(frozen=True, kw_only=True)
class PublicValues:
    """Makes public values of a suite's own. Doing it twice does no more than doing it once."""

    folder: Path
    manifest: SuiteManifest
    base_model: str | None
    """What stands for the suite's own model, if that is local; None: the folder's last name."""
    dataset_name: str | None
    settings: Mapping[str, Any]
    """The run's, or where they are not known, those that a layer's SAE carries."""
    known: dict[str, str] = field(default_factory=dict)
    """Paths that were met in JSON, and what stands for them."""

    @cached_property
    def _bases(self) -> tuple[Path, ...]:
        """Where relative paths may start: here, and where the run did."""
        output_path = Path(str(self.settings.get("output_path") or ""))
        folder = self.folder.resolve()
        if not output_path.is_absolute() and folder.parts[-len(output_path.parts) :] == (
            output_path.parts
        ):
            return Path(), Path(*folder.parts[: -len(output_path.parts)])
        return (Path(),)

    def _is_local(self, text: str, *, is_place: bool) -> bool:
        return is_local_path(text, is_place=is_place, bases=self._bases)

    @cached_property
    def _own(self) -> dict[str, tuple[str, str]]:
        """Where the suite's own model and dataset lie, if they are local, and what stands for each."""
        given = {
            _MODEL: (self.manifest.model_name, self.base_model),
            _DATASET: (self.settings.get(_DATASET), self.dataset_name),
        }
        return {
            key: (path, public or last_name(path))
            for key, (path, public) in given.items()
            if isinstance(path, str) and self._is_local(path, is_place=True)
        }

    @cached_property
    def _urls(self) -> frozenset[str]:
        """Addresses in the settings of the logger, which lead to an account."""
        logger = self.settings.get("logger")
        values = logger.values() if isinstance(logger, dict) else ()
        return frozenset(value for value in values if isinstance(value, str) and "://" in value)

    @cached_property
    def _plan(self) -> str | None:
        """`layer_groups`, if it is the path of a plan."""
        layer_groups = self.settings.get("layer_groups")
        return layer_groups if isinstance(layer_groups, str) and _is_plan(layer_groups) else None

    def note_paths(self, text: str) -> None:
        """Remembers the paths of a JSON text, which other values may quote."""
        for key, value in _json_values(text):
            public = self._of_path(key, value)
            if public is not None and public != value and _is_worth_a_search(value):
                self.known.setdefault(value, public)

    def of_json(self, text: str) -> str:
        """A JSON text with public values; whatever else it holds stays as it is written."""
        key = ""

        def replaced(match: re.Match[str]) -> str:
            nonlocal key
            text = json.loads(match[1])
            if match[2] is not None:
                key = text
                return match[0]
            public = self.value(key, text)
            return match[0] if public == text else json.dumps(public)

        return _JSON_STRING.sub(replaced, text)

    def of_csv(self, text: str) -> str:
        """A CSV text with public values; the last part of a column's name says what it holds."""
        with _long_cells():
            head, *rows = list(csv.reader(io.StringIO(text, newline=""))) or [[]]
        keys = [column.rpartition(".")[2] for column in head]
        public = [
            [self.value(key, cell) or "" for key, cell in zip(chain(keys, repeat("")), row)]
            for row in rows
        ]
        if public == rows:
            return text
        written = io.StringIO()
        csv.writer(written, lineterminator="\n").writerows([head, *public])
        return written.getvalue()

    def value(self, key: str, value: str) -> str | None:
        """What is published in place of a value; None for nothing at all."""
        if key in _ACCOUNT or value in self._urls:
            return None
        if key == _EVALUATED:
            return self._evaluated_on(value)[:80]  # as in the name of its file
        public = self._of_path(key, value)
        if public is not None:
            return public
        if key == "run_name" and self._plan is not None:
            value = value.replace(f"-groups-{self._plan}-LR-", f"-groups-{self._groups}-LR-")
        return self._without_known(value)

    @cached_property
    def _groups(self) -> str:
        return format_layer_groups(self.manifest.trained_groups)

    def _of_path(self, key: str, value: str) -> str | None:
        """What stands for a value that is a path; None for another."""
        if key == "layer_groups":
            return self._groups if _is_plan(value) else None
        if key == "checkpoint_path" and value:
            return self._checkpoint_path(value)
        if key in _FOLDERS and value:
            return last_name(value)
        if not self._is_local(value, is_place=_is_place(key)):
            return None
        for own_key, (path, public) in self._own.items():
            if _is_same(key, own_key, value, path):
                return public
        return last_name(value)

    def _checkpoint_path(self, value: str) -> str:
        """The folder's name with the run's id, which a config takes off again; not with W&B's."""
        wandb_id = (self.settings.get("logger") or {}).get("wandb_id")
        folder = without_run_id(value, wandb_id)
        if folder is None or folder in (value, "."):
            return last_name(value)
        run_id = Path(value).name
        return f"{last_name(folder)}/{_NO_ID if run_id == wandb_id else run_id}"

    def _evaluated_on(self, dataset_name: str) -> str:
        """What an evaluation calls its dataset in public: often the last name of its folder."""
        own, public = self._own.get(_DATASET, ("", ""))
        # The name of an evaluation's file has at most 80 characters of it.
        if own and dataset_name[:80] in {
            name[:80] for name in (own, Path(own).name, last_name(own))
        }:
            return public
        is_local = self._is_local(dataset_name, is_place=True)
        return last_name(dataset_name) if is_local else dataset_name

    def _without_known(self, text: str) -> str:
        """A text with names in place of the paths that were met."""
        pattern, table = self._known_paths
        return pattern.sub(lambda found: table[found[1]], text) if table else text

    @cached_property
    def _known_paths(self) -> tuple[re.Pattern[str], dict[str, str]]:
        """Finds known paths, and says what to put in their place."""
        table = {**self._own_folder, **self.known}
        longest_first = sorted(table, key=lambda path: (-len(path), path))
        either = "|".join(map(re.escape, longest_first))
        return re.compile(rf"(?:file:/{{0,2}}|(?<![\w.~-]))({either})(?![\w-])"), table

    @property
    def _own_folder(self) -> dict[str, str]:
        name = self.folder.resolve().name
        spellings = (self.folder, self.folder.absolute(), self.folder.resolve())
        return {str(path): name for path in spellings if _is_worth_a_search(str(path))}


def _is_place(key: str) -> bool:
    """Whether what stands under a key says where something lies."""
    return key in _PLACES or key.endswith(_ENDS_OF_PLACES)


def _is_plan(layer_groups: str) -> bool:
    try:
        return isinstance(parse_layer_groups(layer_groups), PlanFile)
    except LayerGroupsError:
        return False
    except RuntimeError:  # a path from the home folder of somebody who is not known here
        return True


def _is_same(key: str, own_key: str, value: str, own: str) -> bool:
    """Whether a path is the suite's own model or dataset, which may have been moved."""
    return value == own or (key == own_key and last_name(value) == last_name(own))


def _is_worth_a_search(path: str) -> bool:
    """Whether a path is long enough that it would not be found where it is not meant."""
    return len(path) > 3 and len(re.findall(r"[^/\\]+", path)) > 1


def _json_values(text: str) -> Iterator[tuple[str, str]]:
    """The strings of a JSON text, each with the key before it."""
    key = ""
    for match in _JSON_STRING.finditer(text):
        if match[2] is not None:
            key = json.loads(match[1])
        else:
            yield key, json.loads(match[1])


@contextlib.contextmanager
def _long_cells() -> Iterator[None]:
    """Lets CSV have cells of any length: SAELens writes a number per feature into one."""
    limit = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(limit)

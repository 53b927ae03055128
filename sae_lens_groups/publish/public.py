"""What stands in public for a suite's values, by their keys: names for paths, nothing for accounts."""

import csv
import io
import json
import re
from collections.abc import Mapping
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
    replaced: set[str] = field(default_factory=set)
    """The paths in place of which it gave names."""

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
        csv.field_size_limit(2**31 - 1)  # SAELens writes a number per feature into a cell
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
            self.replaced.update({value} - {public})
            return public
        if key == "run_name" and self._plan is not None:
            return value.replace(f"-groups-{self._plan}-LR-", f"-groups-{self._groups}-LR-")
        return value

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
        is_place = key in _PLACES or key.endswith(_ENDS_OF_PLACES)
        if not self._is_local(value, is_place=is_place):
            return None
        for own_key, (path, public) in self._own.items():
            # It may have been moved.
            if value == path or (key == own_key and last_name(value) == last_name(path)):
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


def _is_plan(layer_groups: str) -> bool:
    try:
        return isinstance(parse_layer_groups(layer_groups), PlanFile)
    except LayerGroupsError:
        return False
    except RuntimeError:  # a path from the home folder of somebody who is not known here
        return True

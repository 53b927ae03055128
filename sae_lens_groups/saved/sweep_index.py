"""`sweep.json`: the suites of a sweep, which lie beside it in a folder each, and how they differ."""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from sae_lens_groups import files
from sae_lens_groups.errors import SuiteError, quoted
from sae_lens_groups.files import CheckedFolder

_FINITE = Annotated[float, Field(allow_inf_nan=False)]
SettingValue = bool | int | _FINITE | str | list[int]
_FOLDER = re.compile(r"[\w+=,-][\w.+=,-]*")


class SweepSetting(files.Entries):
    """One suite of a sweep."""

    name: str
    """Of its folder, such as `k16-lr0.0003`."""
    changes: Mapping[str, SettingValue]
    """The settings that differ within the sweep: `{"k": 16, "lr": 0.0003}`."""

    @field_validator("name")
    @classmethod
    def _require_folder_name(cls, name: str) -> str:
        if _FOLDER.fullmatch(name) is None:
            raise ValueError(f"{quoted(name)} is no name of a folder inside the sweep's")
        return name


class SweepIndex(files.Entries):
    """All suites of a sweep, in the order in which they were asked for."""

    settings: tuple[SweepSetting, ...] = Field(strict=False)  # JSON has no tuples

    @field_validator("settings")
    @classmethod
    def _require_own_names(cls, settings: tuple[SweepSetting, ...]) -> tuple[SweepSetting, ...]:
        if not settings:
            raise ValueError("there is none")
        name, n_times = Counter(of.name for of in settings).most_common(1)[0]
        if n_times > 1:
            raise ValueError(f"{n_times} settings are called {quoted(name)}")
        return settings

    @property
    def names(self) -> tuple[str, ...]:
        """The folder of each suite."""
        return tuple(of.name for of in self.settings)


class _Entries(SweepIndex, files.FileEntries):
    pass


def is_sweep_folder(folder: str | Path) -> bool:
    """Whether a folder holds the suites of a sweep, rather than one suite."""
    return files.exists(Path(folder) / files.SWEEP)


def write_sweep_index(folder: str | Path, index: SweepIndex) -> None:
    """Writes `sweep.json` into a sweep's folder; readers see the old one or the new."""
    entries = {"format_version": _Entries.newest_format, **index.model_dump(mode="json")}
    files.write_text(Path(folder) / files.SWEEP, files.json_text(entries))


def read_sweep_index(folder: str | Path) -> SweepIndex:
    """The suites of the sweep in a folder. Whether they are there is not looked at.

    Raises:
        SuiteError: there is no `sweep.json`, or it is broken or of a newer format.
    """
    text = CheckedFolder(Path(folder)).text(files.SWEEP)
    what = f"{str(folder)!r}: {files.SWEEP} cannot be read"
    with files.refusing(SuiteError, what, "copy the sweep's folder again"):
        return SweepIndex(settings=files.read_entries(_Entries, text).settings)

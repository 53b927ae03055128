"""`--sweep` of the training command: which settings it means, before SAELens is imported."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sae_lens_groups import files
from sae_lens_groups.errors import ConfigError, reason
from sae_lens_groups.field_values import as_flag
from sae_lens_groups.files import MISREAD


def sweep_entries(given: Sequence[str]) -> list[str | dict[str, Any]]:
    """Fields with values as they are, and the settings that a JSON file lists.

    Raises:
        ConfigError: a file cannot be read, or lists no settings.
    """
    entries: list[str | dict[str, Any]] = []
    for text in given:
        if text.endswith(".json"):
            entries += _listed_in(Path(text))
        else:
            entries.append(text)
    return entries


def _listed_in(path: Path) -> list[dict[str, Any]]:
    try:
        listed = files.parse_json(path.read_text(encoding="utf-8"))
    except (OSError, *MISREAD) as error:
        raise ConfigError(
            f"sweep {str(path)!r} cannot be read: {reason(error)}; name a JSON file with "
            f"a list of settings{files.did_you_mean(path)}"
        ) from error
    if not isinstance(listed, list) or not all(isinstance(one, dict) and one for one in listed):
        raise ConfigError(
            f'sweep {str(path)!r} has to hold a list of settings, such as [{{"k": 16}}, {{"k": 32}}]'
        )
    return listed


def flags_of_first(entries: Sequence[str | dict[str, Any]], args: Sequence[str]) -> list[str]:
    """The flags that say of the first setting what every setting says anew.

    So the config that the settings change has no value that none of them has.

    Raises:
        ConfigError: one is also given as a flag.
    """
    first = _first_of(entries)
    for name in first:
        if any(arg.partition("=")[0] == f"--{name}" for arg in args):
            raise ConfigError(f"{name} is given by --{name} and by --sweep; leave one of them out")
    return [word for name, value in first.items() for word in as_flag(name, value)]


def _first_of(entries: Sequence[str | dict[str, Any]]) -> dict[str, Any]:
    texts = [entry for entry in entries if isinstance(entry, str)]
    axes = [text.partition("=") for text in texts if "=" in text]  # others are refused later
    listed = [entry for entry in entries if not isinstance(entry, str)]
    first = {name.strip(): values.partition(",")[0].strip() for name, _, values in axes}
    in_all = set(listed[0]).intersection(*listed) if listed else set[str]()
    return first | {
        name: value for entry in listed[:1] for name, value in entry.items() if name in in_all
    }

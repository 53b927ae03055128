"""The Hub's check of the metadata at the top of a README.md: the part that model cards meet."""

import re
from typing import Any

import yaml

_FRONT_MATTER = re.compile(r"^\s*---[\n\r]+([\S\s]*?)[\n\r]+---(?:[\n\r]|$)")
_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)
# As the Hub listed them in https://github.com/huggingface/huggingface_hub/issues/4218
_LISTED = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0
bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear
c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0
cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl
ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1
lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl
openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr
deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3
llama4 grok2-community gemma unknown other
"""
_LICENSES = _LISTED.split()


def card_metadata(text: str) -> dict[str, Any]:
    """The metadata of a card; empty where it has none or nonsense."""
    try:
        metadata = yaml.safe_load(_front_matter(text) or "")
    except yaml.YAMLError:
        return {}
    return metadata if isinstance(metadata, dict) else {}


def card_warnings(text: str) -> list[str]:
    """What the Hub says of a card that it takes nevertheless."""
    return [] if _front_matter(text) else ["empty or missing yaml metadata in repo card"]


def card_errors(text: str) -> list[str]:
    """What the Hub refuses a card for."""
    try:
        metadata = yaml.safe_load(_front_matter(text) or "{}")
    except yaml.YAMLError as error:
        return [f"bad indentation or other invalid YAML: {error}"]
    if not isinstance(metadata, dict):
        return ['"value" must be of type object']
    return [
        *_wrong_lists(metadata),
        *_wrong_licenses(metadata),
        *_wrong_ids(metadata, "base_model", "Use a model id from https://hf.co/models."),
        *_wrong_ids(metadata, "datasets", "Use a dataset id from https://hf.co/datasets."),
    ]


def _front_matter(text: str) -> str | None:
    found = _FRONT_MATTER.match(text)
    return None if found is None else found[1]


def _wrong_lists(metadata: dict[str, Any]) -> list[str]:
    names = [name for name in ("tags", "widget", "model-index") if name in metadata]
    return [f'"{name}" must be an array' for name in names if not isinstance(metadata[name], list)]


def _wrong_licenses(metadata: dict[str, Any]) -> list[str]:
    given = _as_list(metadata.get("license", []))
    known = ", ".join([*_LICENSES, "array"])
    return [f'"license" must be one of [{known}]' for name in given if name not in _LICENSES]


def _wrong_ids(metadata: dict[str, Any], name: str, advice: str) -> list[str]:
    return [
        f'"{name}" with value "{given}" is not valid. {advice}'
        for given in _as_list(metadata.get(name, []))
        if not (isinstance(given, str) and _ID.fullmatch(given))
    ]


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]

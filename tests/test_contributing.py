"""tutorials/contributing.md is true: its paths and names exist, and its examples work."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.plan.rule import PartitionRule, parse_layer_groups, resolve
from sae_lens_groups.plugins import partitions, plugin_manager

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sae_lens_groups"
PAGE = (ROOT / "tutorials" / "contributing.md").read_text(encoding="utf-8")


def section(heading: str) -> str:
    """What stands under a heading of the page, up to the next."""
    start = PAGE.index(f"\n## {heading}\n")
    return PAGE[start : PAGE.find("\n## ", start + 1)]


def blocks(heading: str, language: str = "python") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", section(heading), re.DOTALL | re.MULTILINE)


def module_of(code: str, name: str) -> ModuleType:
    module = ModuleType(name)
    exec(compile(code, name, "exec"), module.__dict__)
    return module


# --- what the page names ---


def test_every_path_on_the_page_exists() -> None:
    named = set(re.findall(r"`((?:[\w.]+/)+[\w.]*|\w+\.(?:py|md|toml))`", PAGE))
    assert len(named) > 20
    missing = {
        path
        for path in named
        if not any((base / path).exists() for base in (ROOT, PACKAGE, ROOT / "tutorials"))
    }
    assert missing == set()


def test_every_import_on_the_page_works() -> None:
    imports = re.findall(r"^from (sae_lens_groups[\w.]*) import (.+)$", PAGE, re.MULTILINE)
    assert imports
    for module, names in imports:
        for name in names.split(", "):
            assert hasattr(importlib.import_module(module), name), f"{module}.{name}"


# --- a new rule ---


RULE = "A new rule for `layer_groups`"


def test_the_rule_of_the_page_groups_layers_once_it_is_registered() -> None:
    (code,) = blocks(RULE)
    plugin = module_of(code, "early_layers")
    plugin_manager().register(plugin, name="early_layers")
    try:
        rule = parse_layer_groups("early:3")
        assert isinstance(rule, PartitionRule)
        assert resolve(rule, 6, partitions()) == (
            *(LayerGroup(0, 0), LayerGroup(1, 1), LayerGroup(2, 4)),
            LayerGroup(5, 5),
        )
    finally:
        plugin_manager().unregister(plugin)
    assert "early" not in partitions()


def test_the_rule_of_the_page_is_found_in_an_installed_package(tmp_path: Path) -> None:
    (code,), (toml,) = blocks(RULE), blocks(RULE, "toml")
    (tmp_path / "early_layers.py").write_text(code)
    installed = tmp_path / "early_layers-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: early-layers\nVersion: 1\n")
    entry = re.search(r"^(\w+) = \"(\w+)\"$", toml, re.MULTILINE)
    assert entry is not None
    assert "[project.entry-points.sae_lens_groups]" in toml
    (installed / "entry_points.txt").write_text(f"[sae_lens_groups]\n{entry[1]} = {entry[2]}\n")
    done = subprocess.run(
        [sys.executable, "-m", "sae_lens_groups", "plugins"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        capture_output=True,
        text=True,
    )
    assert re.search(r"register_partitions +early +early_layers", done.stdout), done.stderr

"""The house: rooms import in one direction and through doors, and stay small enough to read."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parent.parent / "sae_lens_groups"
ORDER = [
    *("_version", "errors", "hookspecs", "plugins", "layers"),
    *("files", "scaling", "field_values", "config", "activations", "plan", "saved", "publish"),
    *("suite", "transfer", "evaluate", "features", "train", "__init__", "demo", "cli", "__main__"),
]
"""Ground first: a room imports only what stands before it."""
STEPS = {"publish", "transfer", "evaluate", "features", "train"}
ALLOWED_BETWEEN_STEPS = {("train", "transfer"), ("features", "evaluate")}
# Methods of the noun open the step of the same name when they are called: `suite.evaluate`.
OPENED_WHEN_CALLED = {
    ("suite", "evaluate", "evaluate_suite"),
    ("suite", "features", "collect_features"),
}
MOST_FOLDERS, MOST_FILES = 12, 10
LONGEST_FUNCTION, LONGEST_FILE = 40, 350
# One name in several modules: a hook and what implements it, and a program's start.
SAME_NAMES = {
    *("register_alignments", "register_fast_steps", "register_layer_distances"),
    *("register_partitions", "main"),
}


class Import(NamedTuple):
    """One name that a module imports from our package."""

    module: str
    """The one that imports, such as `plan.page`."""
    of: str
    """What it imports from, such as `files.names`; empty for the package itself."""
    name: str


def modules(package: Path) -> dict[str, ast.Module]:
    """Every module's tree, by its name in the package."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        name = ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imports(package: Path) -> list[Import]:
    """All imports of ours from ours, those for type checkers left out."""
    found = [
        Import(module, (node.module or "").partition(".")[2], alias.name)
        for module, tree in modules(package).items()
        for node in _imports_at_run_time(tree)
        if (node.module or "").partition(".")[0] == package.name
        for alias in node.names
    ]
    return [one for one in found if one not in OPENED_WHEN_CALLED]


def _imports_at_run_time(tree: ast.Module) -> Iterator[ast.ImportFrom]:
    for_checkers = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node not in for_checkers:
            yield node


def room_of(module: str) -> str:
    return module.partition(".")[0]


def imported_room(one: Import) -> str:
    room = room_of(one.of) or one.name
    return room if room in ORDER else "__init__"  # a public name, from the package itself


def against_the_order(package: Path) -> list[Import]:
    return [
        one
        for one in imports(package)
        if ORDER.index(imported_room(one)) > ORDER.index(room_of(one.module))
    ]


def past_a_door(package: Path) -> list[Import]:
    return [
        one for one in imports(package) if "." in one.of and room_of(one.of) != room_of(one.module)
    ]


def circles(package: Path) -> list[str]:
    """The modules that import themselves by a way round."""
    trees = modules(package)
    arrows: dict[str, set[str]] = defaultdict(set)
    for one in imports(package):
        below = f"{one.of}.{one.name}".lstrip(".")
        arrows[one.module].add(below if below in trees else one.of)
    return sorted(module for module in trees if module in _reached(module, arrows))


def _reached(start: str, arrows: dict[str, set[str]]) -> set[str]:
    reached: set[str] = set()
    waiting = list(arrows[start])
    while waiting:
        module = waiting.pop()
        if module and module not in reached:
            reached.add(module)
            waiting += arrows.get(module, ())
    return reached


def defined_twice(package: Path) -> dict[str, list[str]]:
    """Public names that several modules define at their top level."""
    places: dict[str, list[str]] = defaultdict(list)
    for module, tree in modules(package).items():
        for name in {name for node in tree.body for name in _defined(node)}:
            if not name.startswith("_"):
                places[name].append(module)
    return {name: found for name, found in places.items() if len(found) > 1}


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else []
    targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
    return [
        part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)
    ]


def long_functions(package: Path) -> list[str]:
    """Functions whose body is too long; a docstring may say as much as it has to."""
    return [
        f"{module}.{node.name}"
        for module, tree in modules(package).items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and _body_lines(node) > LONGEST_FUNCTION
    ]


def _body_lines(function: ast.FunctionDef) -> int:
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_arrows_point_one_way() -> None:
    assert against_the_order(PACKAGE) == []


def test_steps_do_not_import_one_another() -> None:
    between = {
        (room_of(one.module), imported_room(one))
        for one in imports(PACKAGE)
        if {room_of(one.module), imported_room(one)} <= STEPS
    }
    assert {(a, b) for a, b in between if a != b} == ALLOWED_BETWEEN_STEPS


def test_rooms_are_entered_by_their_doors() -> None:
    assert past_a_door(PACKAGE) == []


def test_there_is_no_circle() -> None:
    assert circles(PACKAGE) == []


def test_a_listing_shows_the_flow() -> None:
    names = [path for path in PACKAGE.iterdir() if path.name not in ("__pycache__", "py.typed")]
    assert sum(path.is_dir() for path in names) <= MOST_FOLDERS
    assert sum(path.is_file() for path in names) <= MOST_FILES
    assert {path.stem for path in names} == set(ORDER)


def test_a_name_is_defined_once() -> None:
    assert {name for name in defined_twice(PACKAGE) if name not in SAME_NAMES} == set()


def test_functions_and_files_are_short() -> None:
    assert long_functions(PACKAGE) == []
    lengths = {path: len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {str(path) for path, n in lengths.items() if n > LONGEST_FILE} == set()


@pytest.fixture
def crooked(tmp_path: Path) -> Path:
    """A house with a fault of each kind."""
    package = tmp_path / "sae_lens_groups"
    texts = {
        "files/names.py": "from sae_lens_groups.plan import each\nSUITE = 1\n",
        "plan/each.py": "from sae_lens_groups.files.names import SUITE\n"
        "def even():\n    from sae_lens_groups.plan.even import even\n",
        "plan/even.py": "from sae_lens_groups.plan.each import even\nSUITE = 2\n"
        "def long():\n    'said'\n" + "    print()\n" * (LONGEST_FUNCTION + 1),
    }
    for name, text in texts.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    return package


def test_each_fault_is_found(crooked: Path) -> None:
    assert against_the_order(crooked) == [Import("files.names", "plan", "each")]
    assert past_a_door(crooked) == [Import("plan.each", "files.names", "SUITE")]
    assert circles(crooked) == ["files.names", "plan.each", "plan.even"]
    assert defined_twice(crooked) == {"SUITE": ["files.names", "plan.even"]}
    assert long_functions(crooked) == ["plan.even.long"]

"""The fields that flags set, read from the source of SAELens's config and ours.

Importing SAELens takes about five seconds. This takes a fifth of one, so that help and mistakes in
the flags show at once, for whichever version of SAELens is installed.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from sae_lens_groups.errors import UnknownNameError, quoted

_OURS, _THEIRS, _LOGGER = "GroupSAERunnerConfig", "LanguageModelSAERunnerConfig", "LoggingConfig"
DEFAULT_ARCHITECTURE = "standard"
_ARGUMENT = re.compile(r"^ *(\w+) \(.*?\):\s", re.MULTILINE)


@dataclass(frozen=True)
class Field:
    """A field of the config, and how it is given on the command line."""

    path: str
    """Where it is: `lr`, `sae.k`, `logger.run_name`."""
    flag: str
    kind: str
    """Its type, as the source writes it."""
    default: str
    """As the source writes it; empty where there is none, or it is worked out."""
    description: str
    is_ours: bool

    @property
    def is_switch(self) -> bool:
        """Whether `--noflag` turns it off."""
        return self.kind == "bool"


@cache
def architectures() -> dict[str, str]:
    """The architectures that SAELens trains, and the config class of each."""
    calls = [node for node in ast.walk(_parsed("__init__.py")) if isinstance(node, ast.Call)]
    return {
        ast.literal_eval(call.args[0]): ast.unparse(call.args[2])
        for call in calls
        if ast.unparse(call.func) == "register_sae_training_class"
    }


@cache
def config_fields(architecture: str = DEFAULT_ARCHITECTURE) -> tuple[Field, ...]:
    """Every field that has a flag: those of the config, of its SAE and of its logger.

    Raises:
        UnknownNameError: SAELens trains no such architecture.
    """
    if architecture not in architectures():
        known = ", ".join(sorted(architectures()))
        near = get_close_matches(architecture, architectures(), n=1)
        raise UnknownNameError(
            f"architecture {quoted(architecture)} is not known; known architectures: {known}"
            + (f"; did you mean {near[0]}?" if near else "")
        )
    theirs = set(_declared(_THEIRS))
    of_config = [
        _field(name, name, declared, is_ours=name not in theirs)
        for name, declared in _declared(_OURS).items()
        if name not in ("sae", "logger")
    ]
    taken = {field.flag for field in of_config}
    nested = [
        _field(f"{part}.{name}", f"{part}.{name}" if f"--{name}" in taken else name, declared)
        for part, class_name in (("sae", architectures()[architecture]), ("logger", _LOGGER))
        for name, declared in _declared(class_name).items()
    ]
    return (*of_config, *nested)


def _field(
    path: str, flag: str, declared: tuple[ast.AnnAssign, str], is_ours: bool = False
) -> Field:
    assignment, description = declared
    return Field(
        path=path,
        flag=f"--{flag}",
        kind=ast.unparse(assignment.annotation),
        default=_default(assignment.value),
        description=description,
        is_ours=is_ours,
    )


def _default(value: ast.expr | None) -> str:
    if isinstance(value, ast.Call):  # field(default=...) and its like
        return next((_default(word.value) for word in value.keywords if word.arg == "default"), "")
    if isinstance(value, ast.Name):  # a constant, which is called what it holds
        return value.id.lower()
    return "" if value is None else ast.unparse(value).strip("'")


def _declared(class_name: str) -> dict[str, tuple[ast.AnnAssign, str]]:
    """Name -> the declaration of a dataclass's field and what its docstring says of it."""
    found: dict[str, tuple[ast.AnnAssign, str]] = {}
    for tree in _classes_upwards(class_name):
        descriptions = _descriptions(ast.get_docstring(tree) or "")
        found = {name: (node, descriptions.get(name, old)) for name, (node, old) in found.items()}
        for node in tree.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                name = node.target.id
                known = found[name][1] if name in found else ""
                found[name] = (node, descriptions.get(name, known))
    return found


def _classes_upwards(class_name: str) -> Iterator[ast.ClassDef]:
    """A class behind those that it inherits from."""
    tree = _classes().get(class_name)
    if tree is None:
        return
    for base in tree.bases:
        yield from _classes_upwards(ast.unparse(base).partition("[")[0])
    yield tree


@cache
def _classes() -> dict[str, ast.ClassDef]:
    own = Path(__file__).parent.parent / "config.py"
    trees = [*map(_parsed, ("config.py", "saes/*.py")), _parsed(own.name, own.parent)]
    nodes = [node for tree in trees for node in tree.body]
    return {node.name: node for node in nodes if isinstance(node, ast.ClassDef)}


def _parsed(names: str, folder: Path | None = None) -> ast.Module:
    """The source of SAELens's files of these names, or of another folder's."""
    spec = find_spec("sae_lens")  # which does not import it
    assert spec is not None
    assert spec.origin is not None
    paths = (folder or Path(spec.origin).parent).glob(names)
    return ast.parse("\n".join(path.read_text(encoding="utf-8") for path in paths))


def _descriptions(docstring: str) -> dict[str, str]:
    """What the `Args:` of a docstring say of each, in one line; its first sentence."""
    _, _, text = docstring.partition("Args:")
    parts = _ARGUMENT.split(text)[1:]
    return {
        name: re.split(r"(?<!e\.g)\. ", " ".join(words.split()))[0].rstrip(".")
        for name, words in zip(parts[::2], parts[1::2])
    }

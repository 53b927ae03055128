"""Names from elsewhere, as people may read them: without local paths, and harmless in Markdown."""

import re

from sae_lens_groups.files import is_local_path, last_name


def public(name: str, *, is_place: bool = False) -> str:
    """The name; of a path on this machine its last part."""
    return last_name(name) if is_local_path(name, is_place=is_place) else name


def printable(name: str) -> str:
    """A name from a file without what would move the cursor."""
    return "".join(character if character.isprintable() else "?" for character in name)


def code_span(name: str) -> str:
    """A name as Markdown's inline code, on one line, in a table too."""
    encodable = name.encode(errors="replace").decode()  # JSON can hold halves of surrogate pairs
    text = " ".join("".join(c if c.isprintable() else " " for c in encodable).split())
    text = text.replace("|", r"\|")  # GitHub's tables end a cell at a pipe even in code
    if "`" not in text:
        return f"`{text}`"
    ticks = "`" * (max(map(len, re.findall("`+", text))) + 1)
    return f"{ticks} {text} {ticks}"

"""Names from elsewhere, as people may read them: without local paths, and harmless in a terminal."""

from sae_lens_groups.files import is_local_path, last_name


def public(name: str, *, is_place: bool = False) -> str:
    """The name; of a path on this machine its last part."""
    return last_name(name) if is_local_path(name, is_place=is_place) else name


def printable(name: str) -> str:
    """A name from a file without what would move the cursor."""
    return "".join(character if character.isprintable() else "?" for character in name)

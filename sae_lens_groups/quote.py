"""How messages quote what they were given, which may be anything."""

import reprlib

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 200


def quoted(value: object) -> str:
    """Its repr, cut short where it is long or nested deeply."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python writes out no whole number of more than 4,300 digits
        return f"a number too long to write out ({type(value).__name__})"

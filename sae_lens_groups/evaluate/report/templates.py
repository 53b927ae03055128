"""The templates of this folder: the page's parts in HTML, the terminal's text, the card's table."""

import textwrap
from functools import partial

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from sae_lens_groups.errors import counted
from sae_lens_groups.evaluate.numbers import as_given, flops, interval, percent, score, signed
from sae_lens_groups.evaluate.report.names import printable, public
from sae_lens_groups.files import cell
from sae_lens_groups.layers import in_words

templates = Environment(
    loader=PackageLoader("sae_lens_groups.evaluate", "report"),
    autoescape=select_autoescape(["html"]),
    undefined=StrictUndefined,
    keep_trailing_newline=True,
)
_FILTERS = (
    *(as_given, counted, flops, in_words, interval, percent),
    *(printable, public, score, signed),
)
templates.filters |= {
    **{each.__name__: each for each in _FILTERS},
    "code": lambda name: cell(public(name)),
    "quoted": repr,
    "wrapped": partial(textwrap.fill, width=100),
}

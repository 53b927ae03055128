"""The table of all layers, which the page's script sorts by any column."""

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sae_lens_groups.evaluate.bootstrap import Difference
from sae_lens_groups.evaluate.matching import FOUND_COSINE, FeatureMatch
from sae_lens_groups.evaluate.report.numbers import count, interval, percent, score, signed
from sae_lens_groups.evaluate.report.section import Section, terms
from sae_lens_groups.evaluate.result import LayerScores, SuiteEvaluation

_BETTER, _WORSE = "\N{BLACK UP-POINTING TRIANGLE}", "\N{BLACK DOWN-POINTING TRIANGLE}"
_SCORES = {
    "explained_variance": "The part of the activations' variance that the SAE's reconstruction "
    "keeps: 1 is perfect, 0 no better than the mean activation.",
    "ce_loss_score": "The language model runs with the reconstruction in the activation's place: "
    "at 1 its loss does not rise, at 0 it rises as much as with zeros there.",
    "kl_div_score": "The same for how far the model's predictions move.",
    "l0": "Features active per token.",
    "dead": "Features that fire on none of the evaluated tokens at this layer.",
}
_COMPARED = {
    "difference": "This suite minus the baseline, with the 95% interval from drawing the prompts "
    f"anew 1000 times, the same for both. {_BETTER} better and {_WORSE} worse, where the interval "
    "leaves out zero.",
    "mmcs": "How like the features are: mean over this suite's features of the largest cosine "
    "with a feature of the baseline.",
    "missed": "Features of the baseline with no feature of this suite as near as "
    f"{FOUND_COSINE}, and the part of the baseline's firings that are theirs.",
}
_MISSING = "\N{EN DASH}"


@dataclass(frozen=True)
class _Cell:
    """One cell: what is read, what is sorted by, and how it is coloured."""

    text: str
    value: float = math.nan
    small: str = ""
    look: str = ""

    def to_html(self) -> str:
        value = f"{self.value:.9g}" if math.isfinite(self.value) else ""
        small = f" <small>{html.escape(self.small)}</small>" if self.small else ""
        look = f' class="{self.look}"' if self.look else ""
        return f'<td data-value="{value}"{look}>{html.escape(self.text)}{small}</td>'


@dataclass(frozen=True)
class _Column:
    """One column, and the block of columns it stands in."""

    block: str
    title: str
    of_layer: Callable[[LayerScores], _Cell]
    of_all: Callable[[SuiteEvaluation], _Cell]


def layer_table(evaluation: SuiteEvaluation) -> Section:
    """A row per layer and the means, with the differences to the baseline where there is one."""
    columns = _score_columns()
    if evaluation.comparison is not None:
        columns += [*_difference_columns(), *_match_columns()]
    body = "\n".join(
        f"<tr>{''.join(column.of_layer(scores).to_html() for column in columns)}</tr>"
        for scores in evaluation
    )
    means = "".join(column.of_all(evaluation).to_html() for column in columns)
    return Section(
        "layer_scores",
        "Every layer",
        "Click a heading to sort; what the columns mean stands below. evaluation.csv, beside this "
        "page, has all of SAELens's metrics.",
        '<div class="scroll tall"><table id="layers">\n'
        f"<thead>{_head(columns)}</thead>\n<tbody>{body}</tbody>\n"
        f"<tfoot><tr>{means}</tr></tfoot></table></div>\n{terms(_terms(evaluation))}",
    )


def _terms(evaluation: SuiteEvaluation) -> dict[str, str]:
    """What the columns mean."""
    if evaluation.comparison is None:
        return _SCORES
    return _SCORES | _COMPARED


def _head(columns: Sequence[_Column]) -> str:
    blocks = list(dict.fromkeys(column.block for column in columns))
    widths = [sum(column.block == block for column in columns) for block in blocks]
    above = "".join(
        f'<th colspan="{width}">{html.escape(block)}</th>' for block, width in zip(blocks, widths)
    )
    titles = "".join(
        f'<th aria-sort="none"><button>{_breakable(column.title)}</button></th>'
        for column in columns
    )
    return f"<tr>{above}</tr><tr>{titles}</tr>"


def _breakable(title: str) -> str:
    """A metric's name, which may go on in a second line after its last underscore."""
    return "_<wbr>".join(html.escape(title).rsplit("_", 1))


def _score_columns() -> list[_Column]:
    def metric(name: str, written: Callable[[float], str]) -> _Column:
        return _Column(
            "this suite",
            name,
            lambda scores: _number(scores.metrics[name], written),
            lambda evaluation: _number(evaluation.mean(name), written),
        )

    return [
        _Column(
            "",
            "layer",
            lambda scores: _Cell(str(scores.layer), scores.layer),
            lambda _: _Cell("mean"),
        ),
        _Column(
            "",
            "group",
            lambda scores: _Cell(scores.group.removeprefix("layers_"), scores.layer),
            lambda _: _Cell(""),
        ),
        metric("explained_variance", score),
        metric("ce_loss_score", score),
        metric("kl_div_score", score),
        metric("l0", count),
        _Column(
            "this suite",
            "dead",
            lambda scores: _number(scores.dead_features, percent),
            lambda evaluation: _number(
                _mean([scores.dead_features for scores in evaluation]), percent
            ),
        ),
    ]


def _difference_columns() -> list[_Column]:
    def difference(name: str, written: Callable[[Difference], _Cell]) -> _Column:
        def of_layer(scores: LayerScores) -> _Cell:
            if scores.baseline is None:
                return _Cell(_MISSING)
            return written(scores.baseline.differences[name])

        def of_all(evaluation: SuiteEvaluation) -> _Cell:
            assert evaluation.comparison is not None
            return written(evaluation.comparison.mean_differences[name])

        return _Column("difference to the baseline", name, of_layer, of_all)

    return [
        difference("explained_variance", _judged),
        difference("ce_loss_score", _judged),
        difference("l0", lambda found: _number(found.value, "{:+.1f}".format)),
    ]


def _judged(found: Difference) -> _Cell:
    """A difference of a score, of which more is better."""
    small = interval(found)
    if not found.is_clear:
        return _Cell(signed(found.value), found.value, small)
    mark, look = (_BETTER, "better") if found.value > 0 else (_WORSE, "worse")
    return _Cell(f"{mark} {signed(found.value)}", found.value, small, look)


def _match_columns() -> list[_Column]:
    def match(
        title: str, value: Callable[[FeatureMatch], float], written: Callable[[float], str]
    ) -> _Column:
        def of_layer(scores: LayerScores) -> _Cell:
            if scores.baseline is None or scores.baseline.match is None:
                return _Cell(_MISSING)
            return _number(value(scores.baseline.match), written)

        def of_all(evaluation: SuiteEvaluation) -> _Cell:
            of_baseline = [scores.baseline for scores in evaluation if scores.baseline is not None]
            found = [value(of.match) for of in of_baseline if of.match is not None]
            return _number(_mean(found), written) if found else _Cell(_MISSING)

        return _Column("the baseline's features", title, of_layer, of_all)

    return [
        match("mmcs", lambda match: match.mmcs, score),
        match("missed", lambda match: match.missed_features, percent),
        match("missed firings", lambda match: match.missed_firings, percent),
    ]


def _number(value: float, written: Callable[[float], str]) -> _Cell:
    return _Cell(written(value), value)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)

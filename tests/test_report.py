"""What an evaluation prints, and the report's page in a real browser."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sae_lens.load_model import load_model
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from sae_lens_groups import GroupSAETrainingRunner, SAESuite, evaluate_suite
from sae_lens_groups.demo.model import MODEL_CLASS_NAME, MODEL_FOLDER, stdlib_tokens
from sae_lens_groups.demo.run import demo_config
from sae_lens_groups.evaluate.bootstrap import Difference
from sae_lens_groups.evaluate.circuits import CurvePoint, FaithfulnessReport, LayerCurve, TaskResult
from sae_lens_groups.evaluate.cost import TrainingCost
from sae_lens_groups.evaluate.features import FeatureLayers
from sae_lens_groups.evaluate.matching import match_features
from sae_lens_groups.evaluate.metrics import METRICS
from sae_lens_groups.evaluate.report.markdown_table import layers_markdown
from sae_lens_groups.evaluate.report.page import report_page
from sae_lens_groups.evaluate.report.text import evaluation_text
from sae_lens_groups.evaluate.result import BaselineScores, Comparison, LayerScores, SuiteEvaluation
from sae_lens_groups.evaluate.tokens import EvaluatedTokens
from sae_lens_groups.layers import HookTemplate, LayerGroup, parse_ranges
from sae_lens_groups.saved.manifest import SuiteManifest
from sae_lens_groups.saved.source import SAESource
from sae_lens_groups.saved.training_curves import TrainingPoint
from sae_lens_groups.saved.transfer_report import LayerTransfer, TransferReport
from tests.test_plan_command import synthetic_plan

TEMPLATE = HookTemplate("blocks.", ".hook_resid_post")
D_SAE = 64
HOSTILE = (
    "</script><script>document.title = 'taken'</script><img src=x onerror=\"document.title='x'\">"
)


# --- evaluations made by hand ---


def metrics(ev: float, ce: float, kl: float = 0.5, l0: float = 4.0) -> dict[str, float]:
    named = {"explained_variance": ev, "ce_loss_score": ce, "kl_div_score": kl, "l0": l0}
    return dict.fromkeys(METRICS, 0.0) | named


def differences(ev: Difference, ce: Difference) -> dict[str, Difference]:
    none = dict.fromkeys(METRICS, Difference(0.0, 0.0, 0.0))
    return none | {"explained_variance": ev, "ce_loss_score": ce}


def row(layer: int, group: str, of: Mapping[str, float], **settings: Any) -> LayerScores:
    return LayerScores(
        layer=layer,
        hook_name=TEMPLATE.hook_name(layer),
        group=group,
        scaling_factor=None,
        metrics=of,
        dead_features=0.25,
        **settings,
    )


def tokens() -> EvaluatedTokens:
    """Of 16 tokens, one does not count."""
    return EvaluatedTokens([torch.arange(16).view(2, 8)], [3])


def small_evaluation(**changes: Any) -> SuiteEvaluation:
    """Layers 0-1 share an SAE, layer 2 has its own; no baseline."""
    shared = np.array([[20, 10, 0, 0], [0, 10, 5, 0]])
    settings = {
        "scores": (
            row(0, "layers_0-1", metrics(0.9, 0.95)),
            row(1, "layers_0-1", metrics(0.8, 0.85)),
            row(2, "layers_2", metrics(0.7, 0.75, kl=math.nan)),
        ),
        "tokens": tokens(),
        "dataset_name": "text",
        "features": (
            FeatureLayers(LayerGroup(0, 1), shared, 15),
            FeatureLayers(LayerGroup(2, 2), np.array([[1, 2, 3, 0]]), 15),
        ),
    }
    return SuiteEvaluation(**settings | changes)


def compared_evaluation() -> SuiteEvaluation:
    """The same with a baseline for the first two layers, which likens features at one of them."""
    clear = differences(Difference(-0.02, -0.03, -0.01), Difference(0.0125, 0.01, 0.015))
    unclear = differences(Difference(-0.01, -0.02, 0.005), Difference(math.nan, math.nan, math.nan))
    firings = torch.tensor([3, 1])
    match = match_features(torch.eye(2), firings, torch.tensor([[1.0, 0], [3, 4]]), firings)
    assert match is not None
    of = {"metrics": metrics(0.92, 0.94), "dead_features": 0.0}
    scores = (
        row(
            0,
            "layers_0-1",
            metrics(0.9, 0.95),
            baseline=BaselineScores(name="each", **of, differences=clear, match=match),
        ),
        row(
            1,
            "layers_0-1",
            metrics(0.8, 0.85),
            baseline=BaselineScores(name="each", **of, differences=unclear, match=None),
        ),
        row(2, "layers_2", metrics(0.7, 0.75)),
    )
    means = differences(Difference(-0.015, -0.02, -0.01), Difference(0.0, -0.001, 0.001))
    comparison = Comparison(name="each", n_layers=2, mean_differences=means)
    return small_evaluation(scores=scores, comparison=comparison)


def curve(layer: int, faithful: tuple[float, ...]) -> LayerCurve:
    points = [
        CurvePoint(
            n_features=n,
            faithfulness_with_error=value,
            faithfulness_without_error=0.9 * value,
            completeness_with_error=1 - value,
            completeness_without_error=0.9 - value,
        )
        for n, value in zip((0, 1, 2, 4, 8, 16, 32, 64), faithful)
    ]
    return LayerCurve(hook_name=TEMPLATE.hook_name(layer), share=1.0, points=tuple(points))


LEFT_OUT = TaskResult(task="ioi", n_pairs=0, message="ioi cannot be built <here>; left out")


def faithfulness(layers: list[int]) -> FaithfulnessReport:
    """One task with a curve at every layer but the last, and one that was left out."""
    curves = [curve(layer, (0, 0.2, 0.5, 0.7, 0.85, 0.95, 1.0, 1.0)) for layer in layers[:-1]]
    curves.append(LayerCurve(hook_name=TEMPLATE.hook_name(layers[-1]), share=0.01, points=()))
    solved = TaskResult(task="closing_bracket", n_pairs=64, accuracy=0.984, curves=tuple(curves))
    return FaithfulnessReport({"closing_bracket": solved, "ioi": LEFT_OUT})


def suite_of(layer_groups: str, model_name: str = "org/model", **settings: Any) -> SAESuite:
    groups = parse_ranges(layer_groups)
    manifest = SuiteManifest(
        groups=groups,
        hook_template=settings.pop("hook_template", TEMPLATE),
        scaling_factors={layer: None for group in groups for layer in group.layers},
        model_name=model_name,
        versions={"sae-lens-groups": "0.1.0", "torch": "2.0"},
        **settings,
    )

    return SAESuite(FreshSAEs(manifest))


class FreshSAEs(SAESource):
    """SAEs in memory that nobody trained."""

    has_groups = True

    def __init__(self, manifest: SuiteManifest) -> None:
        self.manifest = manifest

    def layer(self, layer: int, device: str = "cpu") -> Any:  # noqa: ARG002
        return TopKSAE(TopKSAEConfig(d_in=8, d_sae=D_SAE, k=4))

    def log_sparsity(self, layer: int) -> torch.Tensor:  # noqa: ARG002
        return torch.zeros(D_SAE)


def random_evaluation(
    suite: SAESuite, baseline_name: str = "each", dataset_name: str = "text"
) -> SuiteEvaluation:
    """Everything that can be measured, from random numbers."""
    random = np.random.default_rng(0)
    torch.manual_seed(0)
    layers = suite.manifest.layers
    scores = [_random_row(suite, layer, random) for layer in layers]
    means = differences(Difference(-0.012, -0.014, -0.01), Difference(-0.002, -0.004, 0.001))
    cost = {"n_layers": len(layers), "training_tokens": 10**9, "lm_passes": 3e8}
    n_saes = len(suite.manifest.groups)
    return SuiteEvaluation(
        scores=tuple(scores),
        tokens=tokens(),
        dataset_name=dataset_name,
        features=tuple(
            FeatureLayers(group, random.poisson(random.gamma(0.3, 40, (len(group), D_SAE))), 15)
            for group in suite.manifest.groups
        ),
        costs=(
            TrainingCost(name="suite", n_saes=n_saes, sae_steps=n_saes * 2e8, **cost),
            TrainingCost(
                name=baseline_name, n_saes=len(layers), sae_steps=len(layers) * 2e8, **cost
            ),
        ),
        comparison=Comparison(name=baseline_name, n_layers=len(layers), mean_differences=means),
        faithfulness=faithfulness(layers),
    )


def _random_row(suite: SAESuite, layer: int, random: np.random.Generator) -> LayerScores:
    ev, ce = 0.9 - 0.005 * layer + random.normal(0, 0.01, 2)
    minus = random.normal(-0.005, 0.01, 2)
    of = [Difference(value, value - 0.008, value + 0.008) for value in minus]
    firings = torch.poisson(torch.full((D_SAE,), 4.0)).long()
    directions = torch.randn(D_SAE, 8)
    near = directions + random.uniform(0.2, 1) * torch.randn(D_SAE, 8)
    baseline = BaselineScores(
        name="each",
        metrics=metrics(ev - minus[0], ce - minus[1]),
        dead_features=0.01,
        differences=differences(*of),
        match=match_features(directions, firings, near, firings),
    )
    return row(layer, suite.manifest.group_of(layer).name, metrics(ev, ce), baseline=baseline)


def training_points(suite: SAESuite, n_points: int = 20) -> list[TrainingPoint]:
    return [
        TrainingPoint(
            training_tokens=step * 1000,
            group=group.name,
            loss=20 / step + n / 10,
            mse_loss=1.0,
            explained_variance=1 - 1 / (step + n),
            l0=4.0,
        )
        for step in range(1, n_points + 1)
        for n, group in enumerate(suite.manifest.groups)
    ]


# --- the text ---


def test_the_table_without_a_baseline() -> None:
    assert (
        evaluation_text(small_evaluation())
        == """\
layer  group       explained_variance  ce_loss_score  kl_div_score   l0  dead features
    0  layers_0-1              0.9000         0.9500        0.5000  4.0          25.0%
    1  layers_0-1              0.8000         0.8500        0.5000  4.0          25.0%
    2  layers_2                0.7000         0.7500           nan  4.0          25.0%
 mean                          0.8000         0.8500           nan  4.0          25.0%

Measured on 15 tokens of text: 2 prompts of 8 tokens. Tokens left out, which go through the model
unreconstructed: 1 special.

Features of groups. On one layer: share of the features with 90% of their firings on one layer.
Entropy of the layers a feature fires on: 0 for one layer alone, 1 for all alike. Both of features
with 10 firings or more.
group       on one layer  mean entropy  dead on all layers
layers_0-1         50.0%          0.50               25.0%"""
    )


def test_a_baseline_adds_differences_with_a_mark_where_they_are_clear() -> None:
    assert (
        evaluation_text(compared_evaluation()).split("\n\n")[1]
        == """\
This suite minus the baseline 'each', 2 layers: the difference and its 95% interval over prompts,
with * where that leaves out zero. mmcs: mean of the largest cosine of each feature's direction with
one of the baseline.
layer  group                explained_variance                ce_loss_score   mmcs
    0  layers_0-1  -0.0200 [-0.0300, -0.0100]*  +0.0125 [+0.0100, +0.0150]*  0.900
    1  layers_0-1  -0.0100 [-0.0200, +0.0050]               nan [nan, nan]       -
    2  layers_2                              -                            -      -
 mean              -0.0150 [-0.0200, -0.0100]*  +0.0000 [-0.0010, +0.0010]   0.900"""
    )


def test_faithfulness_tells_how_many_features_suffice_and_why_a_task_was_left_out() -> None:
    evaluation = small_evaluation(faithfulness=faithfulness([0, 1, 2]))
    assert (
        evaluation_text(evaluation).split("\n\n")[-1]
        == """\
Faithfulness: how many of a layer's 4 features suffice for 80% of the model's score on a task, mean
over the layers where some do.
  closing_bracket: 8.0 (2 of 3 layers) beside the SAE's error, 16.0 (2 of 3 layers) without it; the
    model is right on 98.4% of 64 prompts
  ioi cannot be built <here>; left out"""
    )


def test_features_that_never_suffice_are_told_as_such() -> None:
    task = TaskResult(task="ioi", n_pairs=20, accuracy=0.9, curves=(curve(0, (0.0, 0.1)),))
    shown = evaluation_text(small_evaluation(faithfulness=FaithfulnessReport({"ioi": task})))
    assert "ioi: never (1 layer) beside the SAE's error, never (1 layer) without it" in shown


def test_groups_of_one_layer_have_nothing_to_tell_of_their_features_layers() -> None:
    evaluation = small_evaluation()
    alone = replace(evaluation, features=evaluation.features[1:])
    assert "Features of groups" not in evaluation_text(alone)


def test_a_name_from_a_file_cannot_move_the_cursor() -> None:
    shown = evaluation_text(small_evaluation(dataset_name="a\x1b[2Jb\n"))
    assert "a?[2Jb?" in shown


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60),
    st.floats(-1e6, 1e6) | st.just(math.nan),
)
def test_every_layer_has_a_line_of_at_most_100_columns(values: list[float], low: float) -> None:
    found = Difference(low, low, low)
    of = BaselineScores(
        name="each",
        metrics=metrics(0, 0),
        dead_features=0,
        differences=differences(found, found),
        match=None,
    )
    scores = [
        row(10 + n, "layers_10-100", metrics(value, value), baseline=of)
        for n, value in enumerate(values)
    ]
    comparison = Comparison(name="each" * 40, n_layers=len(scores), mean_differences=of.differences)
    text = evaluation_text(small_evaluation(scores=tuple(scores), comparison=comparison))
    assert max(map(len, text.splitlines())) <= 100
    for n in range(len(values)):
        assert len(re.findall(rf"^ *{10 + n}  layers_10-100 ", text, re.MULTILINE)) == 2


# --- the table for the model card ---


def test_differences_stand_beside_the_scores_with_a_mark_where_they_are_clear() -> None:
    text = layers_markdown(compared_evaluation())
    head, _, first, second, third, mean = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in text.splitlines()
        if line.startswith("| ")
    ]
    assert head[2:7] == ["group", "explained_variance", "Δ", "ce_loss_score", "Δ"]
    assert first[3:7] == ["0.9000", r"-0.0200\*", "0.9500", r"+0.0125\*"]
    assert second[3:7] == ["0.8000", "-0.0100", "0.8500", "nan"]
    assert third[4] == third[6] == "\N{EN DASH}"
    assert mean[3:5] == ["**0.8000**", "**-0.0150**"]
    assert r"minus that of the baseline `each` on the same text, with \* where the 95%" in text


def test_names_cannot_break_the_table_for_the_card() -> None:
    text = layers_markdown(small_evaluation(dataset_name="a`b|c\n# d"))
    assert r"of `` a`b\|c # d ``." in text


# --- the page ---


def open_page(browser: webdriver.Chrome, page: str, folder: Path, n_plots: int) -> None:
    """Opens the page, and waits for its drawings and its last script."""
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    for log in ("browser", "performance"):
        browser.get_log(log)  # what an earlier page left
    browser.get(path.as_uri())
    WebDriverWait(browser, 20).until(lambda _: plots(browser) == n_plots)


def require_quiet(browser: webdriver.Chrome) -> None:
    """No errors, and nothing asked for but the page."""
    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    urls = [event["request"]["url"] for event in sent]
    # Heat maps are pictures that the page itself holds.
    asked = [url for url in urls if not url.startswith("data:")]
    assert len(asked) == 1
    assert asked[0].startswith("file://")


def plots(browser: webdriver.Chrome) -> int:
    """Drawings, of which each has an axis."""
    return browser.execute_script(
        "return [...document.querySelectorAll('.js-plotly-plot')]"
        ".filter(plot => plot.querySelector('.xaxislayer-above, .xaxislayer-below')).length"
    )


def sections(browser: webdriver.Chrome) -> list[str]:
    return [
        part.get_attribute("id") or "" for part in browser.find_elements(By.TAG_NAME, "section")
    ]


def column(browser: webdriver.Chrome, number: int) -> list[str]:
    return [
        cell.text
        for cell in browser.find_elements(By.CSS_SELECTOR, f"#layers tbody td:nth-child({number})")
    ]


def sort_by(browser: webdriver.Chrome, number: int) -> None:
    heading = f"#layers thead tr:last-child th:nth-child({number}) button"
    browser.find_element(By.CSS_SELECTOR, heading).click()


def transfer(layers: list[int]) -> TransferReport:
    return TransferReport(
        init_from=HOSTILE,
        init_direction="nearest",
        init_parameters="all",
        init_alignment="scale",
        layers={
            TEMPLATE.hook_name(layer): LayerTransfer(
                source_hook_name=TEMPLATE.hook_name(max(0, layer - 1)),
                zero_shot={"explained_variance": 0.5},
                final={"explained_variance": 0.8} if layer in layers[1:] else {},
            )
            for layer in layers
        },
    )


def full_page(layer_groups: str) -> str:
    n_layers = parse_ranges(layer_groups)[-1].last + 1
    plan = synthetic_plan(n_layers, layer_groups=layer_groups)
    suite = suite_of(layer_groups, plan=plan, transfer=transfer(list(range(n_layers))))
    commands = ["sae-lens-groups train --layer_groups auto:3", "sae-lens-groups evaluate suite"]
    suite.training_curves = tuple(training_points(suite))
    return report_page(suite, random_evaluation(suite), commands)


def test_a_page_that_asks_for_something_would_be_noticed(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    open_page(browser, "<img src='http://127.0.0.1:9/a.png'>", tmp_path, n_plots=0)
    with pytest.raises(AssertionError):
        require_quiet(browser)


@pytest.mark.slow
def test_no_line_goes_over_layers_that_were_not_trained(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    suite = suite_of("0-1,4-5", transfer=transfer([0, 1, 4, 5]))
    open_page(browser, report_page(suite, random_evaluation(suite)), tmp_path, n_plots=14)
    drawn = """return [...document.querySelectorAll('.js-plotly-plot')].flatMap(plot =>
        plot.data.filter(line => plot.layout.xaxis.title?.text == 'layer' && line.type == 'scatter'
            && line.mode.includes('lines')).map(line => [plot.id, line.x.map((x, i) => line.y[i]
                == null ? null : x)]))"""
    lines = browser.execute_script(drawn)
    assert {name for name, _ in lines} >= {"layers_explained_variance", "missed", "start_figure"}
    for name, layers in lines:
        assert layers.index(4) > layers.index(1) + 1, name


# Quality 4, cost 2, training 2, missed features 3, faithfulness 2, plan 1, start 1.
N_PLOTS_BESIDE_GROUPS = 15
GROUPS_OF_48 = "0-3,4-9,10-17,18,19-30,31-40,41-46,47"


@pytest.mark.parametrize(
    ("layer_groups", "n_shared", "width"),
    [("0-3,4-7,8-10,11", 3, 420), (GROUPS_OF_48, 6, 420), (GROUPS_OF_48, 6, 1250)],
    ids=["12_layers_narrow", "48_layers_narrow", "48_layers_wide"],
)
def test_the_page_shows_everything_at_any_width(
    browser: webdriver.Chrome, tmp_path: Path, layer_groups: str, n_shared: int, width: int
) -> None:
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    open_page(browser, full_page(layer_groups), tmp_path, N_PLOTS_BESIDE_GROUPS + n_shared)
    assert sections(browser) == [
        *("layer_scores", "quality", "cost", "training", "feature_layers", "missed_features"),
        *("faithfulness", "plan", "start", "reproduce"),
    ]
    groups = parse_ranges(layer_groups)
    assert column(browser, 1) == [str(layer) for group in groups for layer in group.layers]
    bar = browser.find_elements(By.CSS_SELECTOR, "#bar .group")
    assert [box.get_attribute("title") for box in bar] == [f"layers {group}" for group in groups]
    # The table scrolls in itself, and nothing sticks out of the page.
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    wider = "return [...document.querySelectorAll('.main-svg')].filter(svg => {const box = "
    wider += "svg.getBoundingClientRect(); return box.right > innerWidth || box.left < 0}).length"
    assert browser.execute_script(wider) == 0
    require_quiet(browser)


@pytest.mark.slow
def test_headings_sort_and_what_is_missing_comes_last(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    page = report_page(suite_of("0-1,2"), compared_evaluation())
    open_page(browser, page, tmp_path, n_plots=8)
    assert column(browser, 1) == ["0", "1", "2"]
    sort_by(browser, 3)
    assert column(browser, 3) == ["0.7000", "0.8000", "0.9000"]
    sort_by(browser, 3)
    assert column(browser, 3) == ["0.9000", "0.8000", "0.7000"]
    sort_by(browser, 8)
    assert column(browser, 1) == ["0", "1", "2"]  # -0.02, -0.01, none
    sort_by(browser, 8)
    assert column(browser, 1) == ["1", "0", "2"]
    heading = browser.find_element(By.CSS_SELECTOR, "#layers th[aria-sort=descending]")
    assert heading.text.startswith("explained_")
    require_quiet(browser)


def test_clear_differences_are_marked(browser: webdriver.Chrome, tmp_path: Path) -> None:
    open_page(browser, report_page(suite_of("0-1,2"), compared_evaluation()), tmp_path, n_plots=8)
    marked = {
        look: [cell.text for cell in browser.find_elements(By.CSS_SELECTOR, f"tbody .{look}")]
        for look in ("better", "worse")
    }
    assert marked == {
        "better": ["\N{BLACK UP-POINTING TRIANGLE} +0.0125 [+0.0100, +0.0150]"],
        "worse": ["\N{BLACK DOWN-POINTING TRIANGLE} -0.0200 [-0.0300, -0.0100]"],
    }
    assert column(browser, 9)[1:] == ["nan [nan, nan]", "\N{EN DASH}"]


@pytest.mark.slow
def test_the_slider_and_a_click_choose_the_layer_whose_curves_are_shown(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    def shown() -> list[int]:
        return browser.execute_script(
            "return document.getElementById('curves_closing_bracket').data"
            ".filter(line => line.visible).map(line => line.meta)"
        )

    open_page(browser, full_page("0-3,4-7,8-10,11"), tmp_path, N_PLOTS_BESIDE_GROUPS + 3)
    assert shown() == [5] * 4
    slider = browser.find_element(By.ID, "layer")
    slider.send_keys(Keys.ARROW_RIGHT)
    assert shown() == [6] * 4
    assert browser.find_element(By.ID, "chosen_layer").text == "6"
    browser.execute_script(
        "document.getElementById('sufficient_closing_bracket')"
        ".emit('plotly_click', {points: [{x: 2}]})"
    )
    assert shown() == [2] * 4
    assert slider.get_attribute("value") == "2"
    browser.execute_script(  # layer 11 has no curve
        "document.getElementById('sufficient_closing_bracket')"
        ".emit('plotly_click', {points: [{x: 11}]})"
    )
    assert shown() == [2] * 4
    require_quiet(browser)


@pytest.mark.slow
def test_what_was_not_measured_has_no_section(browser: webdriver.Chrome, tmp_path: Path) -> None:
    evaluation = small_evaluation()
    alone = replace(evaluation, scores=evaluation.scores[:2])
    open_page(browser, report_page(suite_of("0,1"), replace(alone, features=())), tmp_path, 2)
    assert sections(browser) == ["layer_scores", "quality", "reproduce"]
    text = browser.find_element(By.TAG_NAME, "body").text
    assert "baseline" not in text
    assert "No cost of training is shown: the suite does not record" in text
    assert "Look into" not in text
    assert "The versions of the packages that trained the suite and made this page." in text
    require_quiet(browser)


def test_what_is_likely_wrong_stands_on_top(browser: webdriver.Chrome, tmp_path: Path) -> None:
    faults = ["most features never fire: lower lr (layer 0)", f"{HOSTILE} (layer 1)"]
    evaluation = small_evaluation()
    evaluation = replace(evaluation, scores=evaluation.scores[:2], features=(), faults=faults)
    open_page(browser, report_page(suite_of("0,1"), evaluation), tmp_path, 2)
    shown = [one.text for one in browser.find_elements(By.CLASS_NAME, "fault")]
    assert shown == [f"Look into: {fault}" for fault in faults]
    require_quiet(browser)


@pytest.mark.slow
def test_tasks_that_were_left_out_say_why(browser: webdriver.Chrome, tmp_path: Path) -> None:
    evaluation = small_evaluation(faithfulness=FaithfulnessReport({"ioi": LEFT_OUT}))
    open_page(browser, report_page(suite_of("0-1,2"), evaluation), tmp_path, n_plots=3)
    assert browser.find_element(By.CLASS_NAME, "message").text == LEFT_OUT.message
    require_quiet(browser)


@pytest.mark.slow
def test_a_page_without_a_number_anywhere_still_opens(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    nothing = Difference(math.nan, math.nan, math.nan)
    of = BaselineScores(
        name="each",
        metrics=dict.fromkeys(METRICS, math.nan),
        dead_features=math.nan,
        differences=dict.fromkeys(METRICS, nothing),
        match=None,
    )
    scores = [row(n, "layers_0-1", dict.fromkeys(METRICS, math.nan), baseline=of) for n in (0, 1)]
    infinite = {"loss": math.nan, "explained_variance": math.inf}
    points = training_points(suite_of("0-1"), 1)[0].model_copy(update=infinite)
    evaluation = small_evaluation(
        scores=tuple(scores),
        features=(FeatureLayers(LayerGroup(0, 1), np.zeros((2, 4), dtype=int), 15),),
        comparison=Comparison(name="each", n_layers=2, mean_differences=of.differences),
        faithfulness=FaithfulnessReport(
            {"ioi": TaskResult(task="ioi", n_pairs=20, curves=(curve(0, (math.nan,) * 8),))}
        ),
    )
    suite = suite_of("0-1")
    suite.training_curves = (points,)
    page = report_page(suite, evaluation)
    assert not re.search(r"[:\[,]\s*(NaN|Infinity)", page.partition("<body>")[2])
    open_page(browser, page, tmp_path, n_plots=8)
    require_quiet(browser)


def test_names_from_files_cannot_run_as_scripts(browser: webdriver.Chrome, tmp_path: Path) -> None:
    suite = suite_of(
        "0-1,2",
        HOSTILE.replace("/", "|"),
        hook_template=HookTemplate(HOSTILE.replace("/", "|") + ".", ".<b>"),
        transfer=transfer([0, 1, 2]),
    )
    evaluation = random_evaluation(suite, baseline_name=HOSTILE, dataset_name=HOSTILE)
    open_page(browser, report_page(suite, evaluation, [HOSTILE]), tmp_path, n_plots=13)
    assert browser.title.startswith("2 SAEs for 3 layers of ")
    assert not browser.find_elements(By.CSS_SELECTOR, "img")
    assert browser.find_element(By.CSS_SELECTOR, "pre").text == HOSTILE
    legend = browser.find_element(By.CSS_SELECTOR, "#layers_explained_variance .legendtext")
    assert "<script>" in legend.text
    require_quiet(browser)


@pytest.mark.slow
def test_a_trained_suite_is_reported(browser: webdriver.Chrome, tmp_path: Path) -> None:
    short = {"n_batches_in_buffer": 16, "n_batches_for_norm_estimate": 2, "lr_decay_steps": 0}
    dataset = stdlib_tokens("held_out").select(range(400))
    suite, baseline = (
        GroupSAETrainingRunner(
            demo_config(groups, None, 4096, **short), override_dataset=dataset
        ).run()
        for groups in ("2-3,11", "each")
    )
    model = load_model(MODEL_CLASS_NAME, str(MODEL_FOLDER), device="cpu")
    evaluation = evaluate_suite(
        suite,
        model,
        dataset,
        baseline=baseline,
        n_batches=1,
        batch_size_prompts=4,
        tasks=["closing_bracket"],
    )
    text = evaluation_text(evaluation)
    assert max(map(len, text.splitlines())) <= 100
    assert "closing_bracket: " in text
    page = report_page(suite, evaluation)
    open_page(browser, page, tmp_path, n_plots=page.count('class="plotly-graph-div"'))
    assert {"quality", "feature_layers", "missed_features", "faithfulness"} <= {*sections(browser)}
    assert column(browser, 1) == ["2", "3", "11"]
    require_quiet(browser)

"""The page of a sweep in a real browser: one of 1, 4 and 24 settings is chosen."""

import json
import math
from dataclasses import replace
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select
from selenium.webdriver.support.wait import WebDriverWait

from sae_lens_groups import evaluate_sweep
from sae_lens_groups.evaluate import SweepEvaluation, sweep_page
from sae_lens_groups.evaluate.bootstrap import Estimate
from sae_lens_groups.evaluate.choice.result import SettingScores
from sae_lens_groups.evaluate.result import BaselineScores, Comparison

from .sweeps import index_of, trained_sweep
from .test_report import HOSTILE, require_quiet
from .tiny import N_LAYERS, make_model, make_tokens

FOUR: dict[str, dict[str, Any]] = {
    f"k{k}-lr{lr}": {"k": k, "lr": lr} for lr in (1e-3, 3e-3) for k in (2, 8)
}
MANY: dict[str, dict[str, Any]] = {
    f"k{k}-d_sae{d_sae}-lr{lr:g}": {"k": k, "d_sae": d_sae, "lr": lr}
    for k in (8, 16, 32, 64)
    for d_sae in (4096, 16384)
    for lr in (1e-4, 3e-4, 1e-3)
}


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> SweepEvaluation:
    sweep = trained_sweep(tmp_path_factory.mktemp("sweeps") / "OUT", FOUR)
    few: dict[str, Any] = {"n_batches": 2, "batch_size_prompts": 8}
    return evaluate_sweep(sweep, make_model(), make_tokens(seed=1), **few)


def many(four: SweepEvaluation) -> SweepEvaluation:
    """24 settings with numbers of a made-up sweep: more features cost sparsity, wide ones less."""
    settings = []
    for n, setting in enumerate(index_of(MANY).settings):
        k, width, lr = MANY[setting.name].values()
        ev = (
            0.6 + 0.08 * math.log2(k / 8) + 0.03 * (width > 5000) - 0.1 * abs(math.log10(lr / 3e-4))
        )
        at = [
            estimates_of(l0=k * 1.02 ** (n % 5) + layer, ev=ev + 0.02 * layer)
            for layer in range(N_LAYERS)
        ]
        means = estimates_of(l0=k * 1.02 ** (n % 5) + 1.5, ev=ev + 0.03)
        of = replace(four[n % 4], setting=setting, layers=at, means=means, d_sae=width)
        settings.append(of)
    return SweepEvaluation(settings=tuple(settings))


def estimates_of(l0: float, ev: float) -> dict[str, Estimate]:
    ce = 1 - 0.2 * (1 - ev)
    return {
        "l0": Estimate(l0, 0.97 * l0, 1.03 * l0),
        "explained_variance": Estimate(ev, ev - 0.02, ev + 0.015),
        "ce_loss_score": Estimate(ce, ce - 0.005, ce + 0.004),
    }


def open_page(
    browser: webdriver.Chrome, folder: Path, found: SweepEvaluation, place: str = ""
) -> webdriver.Chrome:
    path = folder / "sweep.html"
    path.write_text(sweep_page(found, "OUT", ["sae-lens-groups evaluate OUT"]), encoding="utf-8")
    browser.get("about:blank")
    for log in ("browser", "performance"):
        browser.get_log(log)  # what an earlier page left
    browser.get(path.as_uri() + place)
    ready = "return document.body.dataset.ready"
    WebDriverWait(browser, 20).until(lambda _: browser.execute_script(ready) == "yes")
    return browser


def chosen_everywhere(browser: webdriver.Chrome) -> list[str]:
    """What each part of the page shows as chosen: list, table, panel, address, drawings."""
    found = browser.execute_script("""
        const name = index => DATA.settings[index].name;
        const DATA = JSON.parse(document.getElementById("data").textContent);
        const last = id => document.getElementById(id).data.at(-1).customdata;
        return [document.getElementById("chosen").value,
            ...[...document.querySelectorAll("#layers tr[aria-selected=true]")].map(row => name(row.dataset.setting)),
            ...[...document.querySelectorAll("#layers button[aria-pressed=true]")].map(button => button.textContent),
            document.querySelector("#setting h2")?.firstChild.textContent, decodeURIComponent(location.hash.slice(1)),
            ...["explained_variance", "ce_loss_score"].map(metric => name(last(`scatter_${metric}`)[0])),
            ...["explained_variance", "ce_loss_score", "l0", "dead_features"].map(metric => name(last(`lines_${metric}`)[0]))];
    """)
    assert len(found) == 11
    return found


def drawn(browser: webdriver.Chrome, id_: str) -> list[dict[str, Any]]:
    return browser.execute_script(
        f"return document.getElementById('{id_}').data.map(({{x, y, customdata, name, error_x, error_y, marker}}) => ({{x, y, customdata, name, error_x, error_y, marker}}))"
    )


def test_points_stand_at_the_means_with_their_intervals(
    browser: webdriver.Chrome, tmp_path: Path, four: SweepEvaluation
) -> None:
    open_page(browser, tmp_path, four)
    front, *traces, ring = drawn(browser, "scatter_explained_variance")
    assert ring["x"] == []  # none is chosen
    assert [trace["name"] for trace in traces] == ["lr 0.001", "lr 0.003"]
    seen = set()
    for trace in traces:
        for n, index in enumerate(trace["customdata"]):
            of = four[index]
            seen.add(of.setting.name)
            ev, l0 = of.means["explained_variance"], of.means["l0"]
            assert [trace["x"][n], trace["y"][n]] == pytest.approx([l0.value, ev.value], rel=1e-5)
            high, low = (trace["error_y"][name][n] for name in ("array", "arrayminus"))
            assert [high, low] == pytest.approx([ev.high - ev.value, ev.value - ev.low], abs=1e-5)
            is_open = trace["marker"]["symbol"][n].endswith("-open")
            assert is_open == (of.setting.name not in four.front("explained_variance"))
    assert seen == {*FOUR}
    names = tuple(four[index].setting.name for index in front["customdata"])
    assert names == four.front("explained_variance")
    require_quiet(browser)


@pytest.mark.slow
def test_a_baseline_is_a_point_that_cannot_be_chosen(
    browser: webdriver.Chrome, tmp_path: Path, four: SweepEvaluation
) -> None:
    def compared(of: SettingScores) -> SettingScores:
        metrics, none = four[1].evaluation[0].metrics, {}
        theirs = BaselineScores(
            name="theirs", metrics=metrics, dead_features=0.5, differences=none, match=None
        )
        scores = tuple(replace(layer, baseline=theirs) for layer in of.evaluation)
        comparison = Comparison(name="theirs", n_layers=N_LAYERS, mean_differences=none)
        evaluation = replace(of.evaluation, scores=scores, comparison=comparison)
        return replace(of, evaluation=evaluation)

    found = SweepEvaluation(settings=tuple(map(compared, four)))
    open_page(browser, tmp_path, found)
    _, baseline, *_ = drawn(browser, "scatter_explained_variance")
    assert (baseline["name"], baseline["customdata"]) == ("baseline theirs", None)
    ev, l0 = (four[1].evaluation[0].metrics[name] for name in ("explained_variance", "l0"))
    assert [*baseline["x"], *baseline["y"]] == pytest.approx([l0, ev], rel=1e-5)
    require_quiet(browser)


def test_a_row_a_point_and_the_list_choose_a_setting_everywhere(
    browser: webdriver.Chrome, tmp_path: Path, four: SweepEvaluation
) -> None:
    open_page(browser, tmp_path, four)
    first, second, third, fourth = FOUR
    row = browser.find_element(By.CSS_SELECTOR, "#layers tbody tr:nth-child(2)")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", row)
    row.find_element(By.CSS_SELECTOR, "td:nth-child(5)").click()
    assert chosen_everywhere(browser) == [second] * 11
    Select(browser.find_element(By.ID, "chosen")).select_by_visible_text(third)
    assert chosen_everywhere(browser) == [third] * 11
    # The middle of a point, which plotly draws into the page and listens to above it.
    point = browser.execute_script("""
        const plot = document.getElementById("scatter_explained_variance");
        plot.scrollIntoView({block: "center"});
        const trace = plot.data.findIndex(({customdata, marker}) => marker?.symbol?.length && customdata.includes(3));
        const {x, y, customdata} = plot.data[trace], n = customdata.indexOf(3), {left, top} = plot.getBoundingClientRect();
        const {xaxis, yaxis} = plot._fullLayout;
        return [left + xaxis._offset + xaxis.l2p(x[n]), top + yaxis._offset + yaxis.l2p(y[n])];
    """)
    for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
        event = {"type": kind, "x": point[0], "y": point[1], "button": "left", "clickCount": 1}
        browser.execute_cdp_cmd("Input.dispatchMouseEvent", event)
    WebDriverWait(browser, 5).until(lambda _: fourth in browser.current_url)
    assert chosen_everywhere(browser) == [fourth] * 11
    button = browser.find_element(By.CSS_SELECTOR, "#layers tbody tr button")
    button.send_keys(Keys.ENTER)
    assert chosen_everywhere(browser) == [first] * 11
    require_quiet(browser)


@pytest.mark.slow
def test_the_chosen_setting_comes_with_its_commands(
    browser: webdriver.Chrome, tmp_path: Path, four: SweepEvaluation
) -> None:
    flags = ["--k", "2", "--training_tokens", "3840"]
    told = replace(four, settings=(replace(four[0], train_flags=flags), *four[1:]))
    name = four[0].setting.name
    open_page(browser, tmp_path, told, f"#{name}")
    shown = [code.text for code in browser.find_elements(By.CSS_SELECTOR, "#setting pre code")]
    assert shown == [
        f"sae-lens-groups publish OUT/{name} OWNER/NAME",
        f"suite = SAESuite.load('OUT/{name}')",
        f"sae-lens-groups train --config_file OUT/{name}/runner_cfg.json --k 2 "
        f"--training_tokens 3840 --output_path {name}-longer --checkpoint_path checkpoints",
    ]
    link = browser.find_element(By.CSS_SELECTOR, "#layers a").get_attribute("href")
    assert link is not None
    assert link.endswith(f"/{name}/report.html")
    button = browser.find_element(By.CSS_SELECTOR, "#setting .copy")
    button.click()
    WebDriverWait(browser, 5).until(lambda _: button.text in ("Copied", "Selected"))
    require_quiet(browser)


@pytest.mark.slow
def test_the_table_has_the_differences_to_the_chosen_setting(
    browser: webdriver.Chrome, tmp_path: Path, four: SweepEvaluation
) -> None:
    """Both ways round, better and worse where the interval leaves out zero."""
    names = [*FOUR]
    open_page(browser, tmp_path, four, f"#{names[2]}")
    cells = browser.find_elements(By.CSS_SELECTOR, "#layers [data-metric=explained_variance] small")
    for n, cell in enumerate(cells):
        if n == 2:  # its own interval
            assert cell.text.startswith("[")
            continue
        of = four.differences["explained_variance"][max(n, 2)][min(n, 2)]
        assert of is not None  # all are of one site
        sign = 1 if n > 2 else -1
        low, high = sorted([sign * of.low, sign * of.high])
        judged = "better" if low > 0 else "worse" if high < 0 else ""
        assert cell.get_attribute("class") == judged
        shown = f"{sign * of.value:+.4f} [{low:.4f}, {high:.4f}]"
        assert cell.text == {"better": "\N{BLACK UP-POINTING TRIANGLE} ", "worse": "\N{BLACK DOWN-POINTING TRIANGLE} "}.get(judged, "") + shown  # fmt: skip
    assert {cell.get_attribute("class") for cell in cells} >= {"better", "worse"}
    require_quiet(browser)


@pytest.mark.slow
def test_a_layer_alone_is_drawn_and_tabled(
    browser: webdriver.Chrome, tmp_path: Path, four: SweepEvaluation
) -> None:
    open_page(browser, tmp_path, four)
    Select(browser.find_element(By.ID, "which")).select_by_visible_text("layer 2")
    _, *traces, _ = drawn(browser, "scatter_ce_loss_score")
    found = {index: y for trace in traces for index, y in zip(trace["customdata"], trace["y"])}
    values = [of.layers[2]["ce_loss_score"].value for of in four]
    assert [found[n] for n in range(4)] == pytest.approx(values, rel=1e-5)
    cells = browser.find_elements(By.CSS_SELECTOR, "#layers [data-metric=dead_features]")
    dead = [Decimal(100 * of.evaluation[2].dead_features) for of in four]
    expected = [
        f"{one.quantize(Decimal('0.1'), ROUND_HALF_UP)}%" for one in dead
    ]  # as toFixed does
    assert [cell.text.strip() for cell in cells] == expected
    require_quiet(browser)


@pytest.mark.slow
def test_headings_sort_the_table(
    browser: webdriver.Chrome, tmp_path: Path, four: SweepEvaluation
) -> None:
    open_page(browser, tmp_path, many(four))
    titles = ["explained variance", "k"]
    for title in titles:
        (heading,) = [
            of
            for of in browser.find_elements(By.CSS_SELECTOR, "#layers th button")
            if of.text == title
        ]
        browser.execute_script("arguments[0].click()", heading)
    column = [row.text for row in browser.find_elements(By.CSS_SELECTOR, "#layers td:nth-child(2)")]
    assert column == [str(k) for k in (8, 16, 32, 64) for _ in range(6)]
    scores = [float(of.text.split()[-3]) for of in browser.find_elements(By.CSS_SELECTOR, "[data-metric=explained_variance]")]  # fmt: skip
    assert scores[:6] == sorted(scores[:6])
    require_quiet(browser)


@pytest.mark.parametrize("n", [1, 4, 24])
def test_nothing_is_wider_than_the_screen(
    browser: webdriver.Chrome, tmp_path: Path, four: SweepEvaluation, n: int
) -> None:
    found = {1: SweepEvaluation(settings=four[:1]), 4: four, 24: many(four)}[n]
    size: dict[str, Any] = {"height": 900, "deviceScaleFactor": 1, "mobile": False}
    try:
        for width in (1250, 420):
            now = {"width": width, **size}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", now)
            if width == 1250:
                open_page(browser, tmp_path, found)
            fits = f"return document.documentElement.scrollWidth <= {width}"
            WebDriverWait(browser, 5).until(lambda _, fits=fits: browser.execute_script(fits))
        assert len(browser.find_elements(By.CSS_SELECTOR, "#layers tbody tr")) == n
        # One alone needs no choosing.
        assert (browser.find_element(By.ID, "chosen").get_attribute("value") != "") == (n == 1)
        require_quiet(browser)
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.slow
def test_what_is_not_known_leaves_a_gap(
    browser: webdriver.Chrome, tmp_path: Path, four: SweepEvaluation
) -> None:
    unknown = Estimate(math.nan, math.nan, math.nan)
    lost = replace(
        four[1],
        means={**four[1].means, "ce_loss_score": unknown},
        training_flops=None,
        training_tokens=None,
    )
    found = SweepEvaluation(settings=(four[0], lost, *four[2:]))
    open_page(browser, tmp_path, found, f"#{lost.setting.name}")
    _, *traces, ring = drawn(browser, "scatter_ce_loss_score")
    assert sorted(index for trace in traces for index in trace["customdata"]) == [0, 2, 3]
    assert ring["x"] == []
    assert lost.setting.name not in found.front("ce_loss_score")
    row = browser.find_element(By.CSS_SELECTOR, "#layers tbody tr:nth-child(2)")
    assert row.text.count("\N{EN DASH}") == 3
    require_quiet(browser)


def test_hostile_names_show_as_text(
    browser: webdriver.Chrome, tmp_path: Path, four: SweepEvaluation
) -> None:
    def hostile(of: SettingScores, n: int) -> SettingScores:
        setting = of.setting.model_copy(update={"changes": {"k": 1, HOSTILE: f"{HOSTILE}{n}"}})
        return replace(of, setting=setting, evaluation=replace(of.evaluation, dataset_name=HOSTILE))

    found = SweepEvaluation(settings=tuple(hostile(of, n) for n, of in enumerate(four)))
    open_page(browser, tmp_path, found, f"#{four[0].setting.name}")
    assert browser.title == "Sweep OUT"
    assert HOSTILE in browser.find_element(By.CSS_SELECTOR, ".facts").text
    assert HOSTILE in browser.find_element(By.CSS_SELECTOR, "#setting h2").text
    assert browser.find_elements(By.CSS_SELECTOR, "img, #setting script") == []
    data = browser.execute_script("return document.getElementById('data').textContent")
    assert json.loads(data)["changed"] == ["k", HOSTILE]
    require_quiet(browser)

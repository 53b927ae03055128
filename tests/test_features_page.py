"""The page of features in a real browser: found, sorted, followed, and never more than text."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from sae_lens_groups import SAESuite, collect_features
from sae_lens_groups.features import SuiteFeatures, write_features
from sae_lens_groups.features.directions import Elsewhere
from sae_lens_groups.features.page.data import visible

from .test_features import model, suite, text, tokens_folder  # noqa: F401  # fixtures

HOSTILE = (
    "</script><script>document.title='taken'</script>",
    "<img src=x onerror=\"document.title='taken'\">",
    "\u202etxet denrut\u202c",
    "&amp;\u2028\x00",
    "x" * 5000,
)


@pytest.fixture(scope="module")
def found(suite: SAESuite, model: Any, text: Any) -> SuiteFeatures:  # noqa: F811
    few: dict[str, Any] = {"n_batches": 2, "batch_size_prompts": 8}
    return collect_features(SAESuite(suite.source), model, text, **few)


@pytest.fixture(scope="module")
def page(suite: SAESuite, found: SuiteFeatures, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    folder = tmp_path_factory.mktemp("page") / "suite"
    shutil.copytree(suite.require_folder(), folder)
    write_features(SAESuite.load(folder), found)
    return folder / "features" / "index.html"


@pytest.fixture
def opened(browser: webdriver.Chrome, page: Path) -> webdriver.Chrome:
    return open_page(browser, page)


def open_page(browser: webdriver.Chrome, page: Path, place: str = "") -> webdriver.Chrome:
    browser.get("about:blank")
    for log in ("browser", "performance"):
        browser.get_log(log)  # what an earlier page left
    browser.get(page.as_uri() + place)
    wait(browser, lambda: browser.execute_script("return document.body.dataset.ready") == "yes")
    return browser


def wait(browser: webdriver.Chrome, until: Callable[[], bool]) -> None:
    WebDriverWait(browser, 10, 0.02, [StaleElementReferenceException]).until(lambda _: until())


def title(browser: webdriver.Chrome) -> str:
    return browser.find_element(By.CSS_SELECTOR, "#card h2").text


def listed(browser: webdriver.Chrome) -> list[str]:
    script = "return [...document.querySelectorAll('#rows a')].map(a => a.hash.slice(1))"
    return browser.execute_script(script)


def press(browser: webdriver.Chrome, keys: str) -> None:
    browser.find_element(By.TAG_NAME, "body").send_keys(keys)


def require_quiet(browser: webdriver.Chrome) -> None:
    """No message, and nothing asked for but files of the page's own folder."""
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    urls = [event["request"]["url"] for event in sent]
    assert urls
    assert all(url.startswith(("file://", "data:")) for url in urls)


def test_it_opens_from_disk_and_shows_a_feature_on_all_its_layers(
    browser: webdriver.Chrome, page: Path, found: SuiteFeatures
) -> None:
    of = found.groups[0]
    c = int(of.layers[1].n_firings_C.argmax())
    open_page(browser, page, f"#{of.name(c)}@4")
    assert title(browser) == f"Feature {c} of layers 3-4"
    rows = browser.find_elements(By.CSS_SELECTOR, ".layers tbody tr")
    assert [row.text.split()[0] for row in rows] == ["4", "3"]
    assert [row.get_attribute("aria-selected") for row in rows] == ["true", "false"]
    percents = [float(row.text.split()[1].rstrip("%")) for row in rows]
    densities = [100 * int(at.n_firings_C[c]) / found.n_tokens for at in reversed(of.layers)]
    assert percents == pytest.approx(densities, rel=0.05)
    shown = browser.find_elements(By.CSS_SELECTOR, ".example")
    assert len(shown) >= 6
    spans = shown[0].find_elements(By.CSS_SELECTOR, ".token")
    first = found.examples(of.name(c), 4)[0]
    assert [span.get_attribute("textContent") for span in spans] == list(map(visible, first.tokens))
    coloured = [bool(span.get_attribute("style")) for span in spans]
    assert coloured == [value > first.peak / 2000 for value in first.activations[4]]
    rects = shown[0].find_elements(By.CSS_SELECTOR, "svg rect")
    assert len(rects) == sum(bool(v) for values in first.activations.values() for v in values)
    require_quiet(browser)


def test_features_that_never_fire_are_listed_last(
    opened: webdriver.Chrome, found: SuiteFeatures
) -> None:
    opened.find_element(By.ID, "group").send_keys("layers 3-4")
    opened.find_element(By.ID, "more").click()
    never_C = found.groups[0].spread.n_firings_LF.sum(0) == 0
    assert 0 < never_C.sum() < len(never_C)
    shown = [int(name.rpartition("/")[2]) for name in listed(opened)]
    assert shown == sorted(shown, key=lambda c: (never_C[c], c))


def test_search_sort_and_group(opened: webdriver.Chrome, found: SuiteFeatures) -> None:
    search = opened.find_element(By.ID, "search")
    assert opened.find_element(By.ID, "count").text == "384 features"
    search.send_keys("17")
    assert {"layers_3-4/17", "layers_11/17"} <= set(listed(opened))
    search.send_keys(Keys.ENTER)
    wait(opened, lambda: title(opened) == "Feature 17 of layers 3-4")
    search.clear()
    search.send_keys("zzz no such token")
    assert opened.find_element(By.ID, "count").text == "0 features"
    search.send_keys(Keys.CONTROL, "a")
    search.send_keys(Keys.DELETE)
    order = opened.find_element(By.ID, "order")
    order.send_keys("most often")
    total_C = found.groups[0].spread.n_firings_LF.sum(0)
    opened.find_element(By.ID, "group").send_keys("layers 3-4")
    assert opened.find_element(By.ID, "count").text == "192 features"
    shown = [int(name.rpartition("/")[2]) for name in listed(opened)]
    # The page knows densities to three digits.
    assert total_C[shown] == pytest.approx(sorted(total_C, reverse=True)[: len(shown)], rel=0.02)
    opened.find_element(By.ID, "more").click()
    assert len(listed(opened)) == 192
    require_quiet(opened)


def test_keys_lead_through_features_layers_and_groups(
    opened: webdriver.Chrome, found: SuiteFeatures
) -> None:
    first = listed(opened)
    wait(opened, lambda: title(opened) == "Feature 0 of layers 3-4")
    press(opened, "j")
    wait(opened, lambda: opened.current_url.endswith(first[1]))
    press(opened, "k")
    wait(opened, lambda: title(opened) == "Feature 0 of layers 3-4")
    chosen = ".layers tr[aria-selected=true] button"
    was = opened.find_element(By.CSS_SELECTOR, chosen).text
    press(opened, "u" if was == "3" else "d")
    wait(opened, lambda: opened.find_element(By.CSS_SELECTOR, chosen).text != was)
    nearest = found.groups[0].next
    assert nearest is not None
    press(opened, "n")
    expected = f"Feature {int(nearest.feature_CN[0, 0])} of layer 11"
    wait(opened, lambda: title(opened) == expected)
    assert opened.find_elements(By.CSS_SELECTOR, 'a[data-step="-1"]')
    press(opened, Keys.BACKSPACE)
    wait(opened, lambda: title(opened) == "Feature 0 of layers 3-4")
    press(opened, "/")
    assert opened.switch_to.active_element.get_attribute("id") == "search"
    require_quiet(opened)


def test_the_nearest_elsewhere_is_a_link_to_the_layer_that_was_compared(
    browser: webdriver.Chrome,
    suite: SAESuite,  # noqa: F811
    found: SuiteFeatures,
    tmp_path: Path,
) -> None:
    below, above = found.groups
    near = Elsewhere(*(torch.full((192, 1), n) for n in (3, 17, 0.25)))
    copy = SAESuite.load(shutil.copytree(suite.require_folder(), tmp_path / "suite"))
    write_features(copy, replace(found, groups=(below, replace(above, elsewhere=near))))
    open_page(browser, tmp_path / "suite" / "features" / "index.html", "#layers_11/5")
    item = browser.find_element(By.XPATH, "//div[starts-with(., 'elsewhere')]//li")
    assert item.text.startswith("3-4/17 0.25")
    item.find_element(By.TAG_NAME, "a").click()
    wait(browser, lambda: title(browser) == "Feature 17 of layers 3-4")
    assert browser.current_url.endswith("#layers_3-4/17@3")
    require_quiet(browser)


@pytest.mark.parametrize("width", [420, 1250])
def test_nothing_is_wider_than_the_screen(
    browser: webdriver.Chrome, page: Path, width: int
) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        open_page(browser, page)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_hostile_text_shows_as_text(
    browser: webdriver.Chrome,
    suite: SAESuite,  # noqa: F811
    found: SuiteFeatures,
    tmp_path: Path,
) -> None:
    texts = {token: HOSTILE[n % len(HOSTILE)] for n, token in enumerate(found.texts)}
    hostile = replace(found, texts=texts, dataset_name=HOSTILE[0], baseline_name=HOSTILE[1])
    copy = SAESuite.load(shutil.copytree(suite.require_folder(), tmp_path / "suite"))
    write_features(copy, hostile)
    open_page(browser, tmp_path / "suite" / "features" / "index.html")
    assert browser.title.startswith("Features of ")
    assert browser.find_elements(By.CSS_SELECTOR, "#card img, #rows img, #card script") == []
    assert HOSTILE[0] in browser.find_element(By.CSS_SELECTOR, "header .facts").text
    shown = browser.find_element(By.ID, "card").text
    assert "<script>document.title" in shown
    assert "\\u202etxet denrut\\u202c" in shown
    assert "x" * 61 not in shown
    require_quiet(browser)


def test_an_unknown_feature_is_said(browser: webdriver.Chrome, page: Path) -> None:
    open_page(browser, page, "#layers_3-4/999")
    assert "layers_3-4/999 was not looked at" in browser.find_element(By.ID, "card").text

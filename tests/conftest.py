"""What every test stands on: no network, the fixtures that many take, and which tests are slow.

pytest's controlling process loads it too, so it imports nothing that takes seconds; `tests.tiny` does.
"""

import json
import os

# Before any import that reads them: nothing in the tests may reach for the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"
# The models here are too small for two threads, which would only wait for each other; and as many
# tests run at once as there are cores. Processes that tests start inherit it.
os.environ["OMP_NUM_THREADS"] = "1"

import gc  # the environment above has to come first
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from . import floor, products

if TYPE_CHECKING:
    from datasets import Dataset
    from selenium import webdriver
    from transformer_lens import HookedTransformer

# The same examples in every run, however slow: what fails in CI fails on every machine.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def model() -> "HookedTransformer":
    from .tiny import make_model

    return make_model()


@pytest.fixture(scope="session")
def tokens() -> "Dataset":
    from .tiny import make_tokens

    return make_tokens()


@pytest.fixture(scope="session")
def tokens_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokens on disk, as SAELens's pretokenizer writes them."""
    from .tiny import make_tokens

    folder = tmp_path_factory.mktemp("tokens") / "tokenised"
    make_tokens().save_to_disk(folder)
    return folder


@pytest.fixture
def text_folder(tmp_path: Path) -> Path:
    """Text on disk, a file of 300 rows."""
    folder = tmp_path / "text"
    folder.mkdir()
    rows = [{"text": f"def f{n}(x):\n    return x * {n}\n" * 30} for n in range(300)]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture
def only_new_objects() -> Iterator[None]:
    """`gc.get_objects()` lists what a test makes, without a million older objects to look through."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def browser() -> "Iterator[webdriver.Chrome]":
    """Headless Chromium, which logs what pages print and what they request."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        # CI sets it, so that the pages cannot go untested there.
        assert not os.environ.get("REQUIRE_BROWSER"), "chromium or chromedriver is missing"
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1300,1500"),
        # A browser that asks nothing of the network.
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *("--no-first-run", "--disable-quic"),
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    yield chrome
    chrome.quit()


_LONGEST = {
    "test_cached_activations.py",
    "test_circuits.py",
    "test_cli.py",
    "test_evaluate_command.py",
    "test_evaluation.py",
    "test_package.py",
    "test_plan_command.py",
    "test_publish.py",
    "test_ranks.py",
    "test_run_failures.py",
    "test_transfer.py",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # First, as files are dealt out whole: no worker is to end with a long one while others wait.
    items.sort(key=lambda item: item.path.name not in _LONGEST)
    products.mark_slow_products(items)
    floor.mark(items)


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test writes by default lands in its own folder."""
    monkeypatch.chdir(tmp_path)

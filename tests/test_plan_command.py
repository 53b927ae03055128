"""`sae-lens-groups plan`: what it prints and writes, and the page in a real browser."""

import json
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from sae_lens_groups import GroupPlan, LayerDistances, SAESuite, plan_groups
from sae_lens_groups.cli import main
from sae_lens_groups.demo.model import MODEL_FOLDER
from sae_lens_groups.demo.run import demo_config
from sae_lens_groups.layers import HookTemplate
from sae_lens_groups.plan.cost import SuiteCost
from sae_lens_groups.plan.page import plan_page
from sae_lens_groups.plan.picture import save_picture
from sae_lens_groups.plan.text import plan_text

from .processes import run

FLAGS = [
    *("--model_name", str(MODEL_FOLDER), "--model_class_name", "AutoModelForCausalLM"),
    *("--hook_name", "gpt_neox.layers.0", "--context_size", "32"),
    *("--store_batch_size_prompts", "8", "--plan_tokens", "4000"),
]


def synthetic_plan(n_layers: int, model_name: str = "synthetic", **flags: Any) -> GroupPlan:
    """Layers at uneven steps along a line, as far as a right angle apart."""
    steps = np.random.default_rng(0).gamma(1.0, 1.0, n_layers)
    line = steps.cumsum() / steps.sum()
    matrix = 0.5 * (1 - np.exp(-3 * np.abs(line[:, None] - line[None])))
    distances = LayerDistances(
        metric="angular",
        matrix=matrix,
        standard_errors=0.001 * (1 - np.eye(n_layers)),
        n_tokens=200_000,
        model_name=model_name,
        hook_template=HookTemplate("blocks.", ".hook_resid_post"),
    )
    cost = SuiteCost(unit="FLOPs", lm_forward=3e6, sae_step=1e6, n_layers=n_layers)
    return plan_groups(distances, flops=cost, **flags)


# --- the command ---


@pytest.mark.slow
def test_a_model_is_planned_and_trained_from_the_plan(text_folder: Path, tmp_path: Path) -> None:
    dataset = ["--dataset_path", str(text_folder)]
    command = ["-m", "sae_lens_groups"]
    shown = run(
        *(*command, "plan", *FLAGS, *dataset, "--output_path", "my plan", "--time"), cwd=tmp_path
    )
    assert shown.returncode == 0, shown.stderr
    assert "Measuring layer distances" in shown.stderr
    assert {path.name for path in (tmp_path / "my plan").iterdir()} == {
        *("plan.json", "plan.html", "plan.png")
    }
    plan = GroupPlan.load(tmp_path / "my plan" / "plan.json")
    assert "angular distances of 12 layers at gpt_neox.layers.{layer}: 4," in shown.stdout
    assert " ".join(f"[{' '.join(map(str, g.layers))}]" for g in plan.groups) in shown.stdout
    assert re.search(r"^-> +\d+ +\d+ +0\.\d{3}", shown.stdout, re.MULTILINE)
    assert "cost, counted:" in shown.stdout
    assert "time, measured:" in shown.stdout
    assert "of SAEs of architecture standard with d_sae 1,536" in shown.stdout
    assert plan.flops is not None
    # The width was found, and the SAE is reckoned with 16 features for each dimension.
    assert plan.flops.sae_step == 12 * 96 * 16 * 96
    assert "Look at it: my plan/plan.html" in shown.stdout
    assert "sae-lens-groups train --layer_groups 'my plan/plan.json' ..." in shown.stdout

    trained = run(
        *(*command, "train", *FLAGS, *dataset, "--layer_groups", "my plan/plan.json"),
        *("--d_sae", "128", "--training_tokens", "8192"),
        *("--n_batches_in_buffer", "160", "--nolog_to_wandb", "--output_path", "suite"),
        cwd=tmp_path,
    )
    assert trained.returncode == 0, trained.stderr
    suite = SAESuite.load(tmp_path / "suite")
    assert suite.manifest.groups == plan.groups
    assert "angular distances of 12 layers" in trained.stdout


def test_flags_decide_on_the_plan(text_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [
        *("plan", *FLAGS, "--dataset_path", str(text_folder), "--output_path", "out"),
        *("--metric", "cka", "--max_cost", "0.9", "--last_layer", "grouped"),
        *("--layer_groups", "optimal", "--architecture", "topk", "--d_sae", "512", "--k", "8"),
    ]
    assert main(flags) == 0
    plan = GroupPlan.load("out/plan.json")
    assert plan.distances.metric == "cka"
    assert plan.partition == "optimal"
    assert plan.chosen_by == "cost <= 0.9"
    assert len(plan.hierarchy) == 12
    assert plan.flops is not None
    assert plan.flops.sae_step == 2 * 96 * 512 + 8 * 8 * 96  # with the sparse step
    assert plan.chosen.cost is not None
    assert plan.chosen.cost <= 0.9 < (plan.hierarchy[plan.chosen.n_groups].cost or 0)
    assert "cka distances of 12 layers" in capsys.readouterr().out


@pytest.mark.slow
def test_a_config_file_gives_what_is_not_said_again(text_folder: Path) -> None:
    cfg = demo_config(
        "even:3",
        "the_runs_own_suite",
        context_size=32,
        plan_tokens=4000,
        store_batch_size_prompts=8,
        n_batches_in_buffer=160,
        dataset_path=str(text_folder),
    )
    Path("runner_cfg.json").write_text(json.dumps(cfg.to_dict()))
    assert main(["plan", "--config_file", "runner_cfg.json", "--layer_groups", "auto:5"]) == 0
    plan = GroupPlan.load("plan/plan.json")  # not in the place of the run's own suite
    assert plan.chosen.n_groups == 5
    assert plan.flops is not None
    assert plan.flops.sae_step == 2 * 96 * 768 + 8 * 16 * 96


def test_a_folder_of_another_plan_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan" / "plan.json").write_text("mine")
    assert main(["plan", *FLAGS, "--dataset_path", "text"]) == 2
    assert (
        "output_path 'plan' already holds a plan, which is never overwritten"
        in capsys.readouterr().err
    )
    assert (tmp_path / "plan" / "plan.json").read_text() == "mine"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--metric", "euclidean"], "metric 'euclidean' is not known; known names: angular"),
        (["--max_cost", "2"], "max_cost is 2.0; it is the fraction of what an SAE per layer costs"),
        (["--max_cost", "x"], "argument --max_cost: invalid float value: 'x'"),
        (["--last_layer", "no"], "argument --last_layer: invalid choice: 'no'"),
        (["--amad_threshold", "0.7"], "amad_threshold is 0.7; it lies above 0"),
        (["--layer_groups", "auto:12"], "'auto:12' asks for 12 groups, and there are 11 layers"),
        (["--layer_groups", "0-4,3-11"], "groups 0-4 and 3-11 overlap in layer 3"),
        (["--layer_groups", "each", "--max_cost", "0.3"], "both decide on the number of groups"),
        (["--layer_groups", "0-12"], "group 0-12 reaches beyond the model"),
        (["--layer_groups", "nearest"], "layer_groups 'nearest' is not known"),
        (["--hook_name", "gpt_neox.embed"], "hook_name 'gpt_neox.embed' has no layer number"),
        (["--hook_name", "gpt_neox.layer.0"], "the model has no hook named gpt_neox.layer."),
        (["--d_in", "64"], "d_in is 64, but gpt_neox.layers.{layer} is 96 wide; set d_in to 96"),
        (["--model_name", "./no-model"], "no-model"),
        (["--dataset_path", "./no-data"], "dataset_path './no-data' cannot be read"),
        (["--plan_tokens", "40"], "too few for a standard error"),
        (["--unknown", "1"], "unrecognized arguments: --unknown; `sae-lens-groups plan --help`"),
    ],
)
def test_mistakes_give_one_message_and_status_2(
    flags: list[str], message: str, text_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *FLAGS, "--dataset_path", str(text_folder), *flags]) == 2
    shown = capsys.readouterr().err
    assert "sae-lens-groups plan: error: " in shown
    assert message in shown
    assert "Traceback" not in shown
    assert not Path("plan").exists()


def test_tokens_of_another_model_and_an_empty_dataset_give_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Dataset.from_dict({"tokens": [[100_000] * 32] * 300}).save_to_disk(tmp_path / "foreign")
    assert main(["plan", *FLAGS, "--dataset_path", str(tmp_path / "foreign")]) == 2
    assert "it was tokenised for another model" in capsys.readouterr().err
    Dataset.from_dict({"tokens": []}).save_to_disk(tmp_path / "empty")
    assert main(["plan", *FLAGS, "--dataset_path", str(tmp_path / "empty")]) == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.slow
def test_a_plan_may_be_made_for_a_k_beyond_saelens_default_d_sae(text_folder: Path) -> None:
    flags = ["--architecture", "topk", "--k", "1200", "--dataset_path", str(text_folder)]
    assert main(["plan", *FLAGS, *flags]) == 0


def test_help_names_its_own_flags_and_those_it_shares(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "--help"])
    shown = capsys.readouterr().out
    for flag in ("--metric", "--max_cost", "--last_layer", "--time", "--model_name", "--d_sae"):
        assert flag in shown


def test_a_plan_of_many_layers_is_still_a_small_table() -> None:
    lines = plan_text(synthetic_plan(80)).splitlines()
    assert len(lines) < 35
    assert max(map(len, lines)) <= 120
    assert sum(line.startswith("->") for line in lines) == 1


# --- the pictures ---


@pytest.mark.slow
@pytest.mark.parametrize("n_layers", [2, 12, 80])
def test_the_png_is_drawn_for_any_number_of_layers(n_layers: int, tmp_path: Path) -> None:
    save_picture(synthetic_plan(n_layers), tmp_path / "plan.png")
    content = (tmp_path / "plan.png").read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", content[16:24]) == (1950, 728)


def shown_groups(browser: webdriver.Chrome) -> list[str]:
    return [group.text for group in browser.find_elements(By.CSS_SELECTOR, "#bar .group")]


def outlined(browser: webdriver.Chrome) -> int:
    return len(browser.find_elements(By.CSS_SELECTOR, "#distances .shapelayer path"))


def open_page(browser: webdriver.Chrome, plan: GroupPlan, folder: Path) -> None:
    path = folder / "plan.html"
    path.write_text(plan_page(plan), encoding="utf-8")
    browser.get(path.as_uri())
    # The driver may return before the page's last script has run.
    WebDriverWait(browser, 20).until(lambda _: outlined(browser) == len(plan.groups))


def test_the_page_shows_the_chosen_groups(browser: webdriver.Chrome, tmp_path: Path) -> None:
    plan = synthetic_plan(12)
    open_page(browser, plan, tmp_path)
    assert shown_groups(browser) == [str(group) for group in plan.groups]
    assert browser.find_element(By.ID, "flag").text == "--layer_groups " + ",".join(
        map(str, plan.groups)
    )
    assert f"{plan.chosen.amad:.3f}" in browser.find_element(By.ID, "figures").text
    assert browser.get_log("browser") == []


def test_the_slider_and_a_click_choose_other_groups(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    plan = synthetic_plan(12)
    open_page(browser, plan, tmp_path)
    slider = browser.find_element(By.ID, "n_groups")
    slider.send_keys(Keys.ARROW_RIGHT)
    following = plan.hierarchy[plan.chosen.n_groups]
    assert shown_groups(browser) == [str(group) for group in following.groups]
    assert outlined(browser) == len(following.groups)
    # The top row of the nested groups is one group.
    levels = browser.find_element(By.CSS_SELECTOR, "#levels .nsewdrag")
    up = -levels.size["height"] // 2 + levels.size["height"] // 22
    ActionChains(browser).move_to_element_with_offset(levels, 0, up).click().perform()
    assert shown_groups(browser) == [str(group) for group in plan.hierarchy[0].groups]
    browser.find_element(By.ID, "reset").click()
    assert shown_groups(browser) == [str(group) for group in plan.groups]
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("layer_groups", ["0-2,3-10,11", "0-1,5", "each"])
def test_the_page_shows_groups_that_were_named(
    browser: webdriver.Chrome, tmp_path: Path, layer_groups: str
) -> None:
    plan = synthetic_plan(12, layer_groups=layer_groups)
    open_page(browser, plan, tmp_path)
    assert shown_groups(browser) == [str(group) for group in plan.groups]
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("n_layers", [2, 26, 80])
def test_the_page_opens_for_any_number_of_layers(
    browser: webdriver.Chrome, n_layers: int, tmp_path: Path
) -> None:
    plan = synthetic_plan(n_layers)
    open_page(browser, plan, tmp_path)
    assert len(shown_groups(browser)) == len(plan.groups)
    assert browser.get_log("browser") == []


def test_a_models_name_cannot_run_as_a_script(browser: webdriver.Chrome, tmp_path: Path) -> None:
    name = "</script><script>document.title = 'taken'</script>"
    open_page(browser, synthetic_plan(3, model_name=name), tmp_path)
    assert browser.title != "taken"
    assert "Layer groups of" in browser.title

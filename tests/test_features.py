"""What is found of features, beside a brute-force pass in float64; and the command."""

import re
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from datasets import Dataset
from sae_lens.load_model import load_model

from sae_lens_groups import SAESuite
from sae_lens_groups.cli import main
from sae_lens_groups.demo import MODEL_FOLDER, stdlib_tokens
from sae_lens_groups.features import HISTOGRAM_EDGES, SuiteFeatures, collect_features
from sae_lens_groups.features.directions import Nearest, logit_lens, nearest_features
from sae_lens_groups.features.result import GroupFeatures, LayerFeatures
from sae_lens_groups.layers import LayerGroup

from .planted import FEATURE, PlantedModel, planted_suite, planted_tokens, random_suite
from .test_evaluate_command import train

N_BATCHES, N_PROMPTS, CONTEXT = 2, 8, 32
N_TOP, N_SAMPLED, WIDTH = 4, 3, 10
COUNTS: dict[str, Any] = {"n_batches": N_BATCHES, "batch_size_prompts": N_PROMPTS}
QUICK = ("--n_eval_batches", "1", "--eval_batch_size_prompts", "4")


@pytest.fixture(scope="module")
def tokens_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "tokens"
    stdlib_tokens("held_out", CONTEXT).select(range(400)).save_to_disk(folder)
    return folder


@pytest.fixture(scope="module")
def suite(tokens_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> SAESuite:
    """Of the demo model: layers 3 and 4 share an SAE, 11 has its own."""
    return SAESuite.load(train(tmp_path_factory.mktemp("suites") / "grouped", tokens_folder))


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model("AutoModelForCausalLM", str(MODEL_FOLDER), device="cpu")


@pytest.fixture(scope="module")
def text() -> Dataset:
    return stdlib_tokens("held_out", CONTEXT).select(range(200, 300))


@pytest.fixture(scope="module")
def found(suite: SAESuite, model: Any, text: Dataset) -> SuiteFeatures:
    sizes: dict[str, Any] = {"n_top": N_TOP, "n_sampled": N_SAMPLED, "width": WIDTH}
    baseline = {suite.manifest.hook_template.hook_name(4): suite[11]}
    return suite.features(model, text, baseline=baseline, **COUNTS, **sizes)


@pytest.fixture(scope="module")
def brute(suite: SAESuite, model: Any, text: Dataset) -> dict[int, torch.Tensor]:
    """By layer, every feature's activation on every token (P, T, F), in float64; 0 where special."""
    tokens_PT = torch.tensor(text["tokens"][: N_BATCHES * N_PROMPTS])
    _, cache = model.run_with_cache(tokens_PT, names_filter=list(suite))
    acts = {}
    for name, layer in zip(suite, suite.layers):
        sae = SAESuite.load(suite.require_folder())[name].double()
        acts[layer] = sae.encode(cache[name].double()).detach()
        acts[layer][tokens_PT == model.tokenizer.eos_token_id] = 0
    return acts


def each_layer(found: SuiteFeatures) -> list[tuple[GroupFeatures, LayerFeatures]]:
    return [(of, at) for of in found.groups for at in of.layers]


# --- the numbers ---


def test_counts_and_histograms_are_those_of_a_brute_force_pass(
    found: SuiteFeatures, brute: dict[int, torch.Tensor]
) -> None:
    edges = torch.tensor(HISTOGRAM_EDGES, dtype=torch.float64)
    for _, at in each_layer(found):
        acts_PTF = brute[at.layer]
        assert torch.equal(at.n_firings_C, (acts_PTF != 0).sum((0, 1)))
        torch.testing.assert_close(
            at.highest_C.double(), acts_PTF.amax((0, 1)), rtol=1e-5, atol=1e-6
        )
        bins = torch.stack(
            [
                torch.bucketize(values[values != 0], edges).bincount(minlength=len(edges) + 1)
                for values in acts_PTF.flatten(0, 1).T
            ]
        )
        assert (at.histogram_CB - bins).abs().sum() <= 2  # one at an edge may fall on either side
    assert found.n_tokens == N_BATCHES * N_PROMPTS * CONTEXT - n_special(brute)


def n_special(brute: dict[int, torch.Tensor]) -> int:
    """TopK fires on every token, but those that do not count."""
    return int((next(iter(brute.values())) == 0).all(-1).sum())


def test_the_examples_are_the_highest_of_all_prompts(
    found: SuiteFeatures, brute: dict[int, torch.Tensor], text: Dataset
) -> None:
    tokens_PT = torch.tensor(text["tokens"][: N_BATCHES * N_PROMPTS])
    n_checked = 0
    for of, at in each_layer(found):
        peak_FP = brute[at.layer].amax(1).T
        best_FK, prompt_FK = peak_FP.topk(N_TOP)
        fires_FK = best_FK > 0
        peaks = torch.where(fires_FK, at.top.peak_CK.double(), 0)
        torch.testing.assert_close(peaks, best_FK, rtol=1e-5, atol=1e-6)
        assert torch.equal(at.top.prompt_CK >= 0, fires_FK)
        assert torch.equal(at.top.prompt_CK[fires_FK].long(), prompt_FK[fires_FK])
        for c, k in fires_FK.nonzero().tolist()[::17]:
            prompt, start = int(at.top.prompt_CK[c, k]), int(at.top.start_CK[c, k])
            shown = slice(start, start + WIDTH)
            assert torch.equal(at.top.token_CKW[c, k].long(), tokens_PT[prompt, shown])
            for n, layer in enumerate(of.group.layers):
                torch.testing.assert_close(
                    at.top.activation_CKLW[c, k, n].double(),
                    brute[layer][prompt, shown, c],
                    rtol=1e-4,
                    atol=1e-6,
                )
            n_checked += 1
    assert n_checked > 50


def test_the_draw_is_of_all_prompts_in_which_a_feature_fires(
    found: SuiteFeatures, brute: dict[int, torch.Tensor]
) -> None:
    drawn = set()
    for _, at in each_layer(found):
        peak_FP = brute[at.layer].amax(1).T
        n_firing_F = (peak_FP > 0).sum(1)
        is_there = at.sampled.prompt_CK >= 0
        assert torch.equal(is_there.sum(1), n_firing_F.clamp(max=N_SAMPLED))
        for c, k in is_there.nonzero().tolist():
            prompt = int(at.sampled.prompt_CK[c, k])
            assert peak_FP[c, prompt] > 0
            drawn.add(prompt)
        assert all(
            len(set(row[row >= 0].tolist())) == (row >= 0).sum() for row in at.sampled.prompt_CK
        )
    assert drawn == set(range(N_BATCHES * N_PROMPTS))


def test_raised_tokens_and_nearest_features_are_those_of_float64(
    found: SuiteFeatures, suite: SAESuite, model: Any
) -> None:
    W_U = model.model.get_output_embeddings().weight.T.double()

    for _, at in each_layer(found):
        logits_FV = suite[at.layer].W_dec.double() @ W_U
        assert at.lens is not None
        for tokens, by, largest in (
            (at.lens.raised_CN, at.lens.raised_by_CN, True),
            (at.lens.lowered_CN, at.lens.lowered_by_CN, False),
        ):
            torch.testing.assert_close(
                by.double(), logits_FV.topk(10, largest=largest).values, rtol=1e-4, atol=1e-5
            )
            torch.testing.assert_close(
                by.double(), logits_FV.gather(1, tokens), rtol=1e-4, atol=1e-5
            )
    below, above = found.groups
    assert below.previous is above.next is None
    assert below.next is not None
    assert above.previous is not None
    assert below.elsewhere is above.elsewhere is None
    require_nearest(below.next, cosines(suite, 4, 11))
    require_nearest(above.previous, cosines(suite, 11, 4))
    in_baseline = {at.layer: at.baseline for _, at in each_layer(found)}
    assert in_baseline[3] is in_baseline[11] is None  # it has one SAE, for layer 4: ours of 11
    require_nearest(in_baseline[4], cosines(suite, 4, 11))


def cosines(suite: SAESuite, layer: int, other: int) -> torch.Tensor:
    """Of every pair of directions, in float64."""
    ours, theirs = (
        torch.nn.functional.normalize(suite[n].W_dec.detach().double()) for n in (layer, other)
    )
    return ours @ theirs.T


def require_nearest(nearest: Nearest | None, cosine_CF: torch.Tensor) -> None:
    assert nearest is not None
    expected = cosine_CF.topk(3).values
    of_named = cosine_CF.gather(1, nearest.feature_CN)
    for found in (nearest.cosine_CN.double(), of_named):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_directions_in_bfloat16_are_compared_as_exactly_as_in_float32() -> None:
    draws = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(100, 64, generator=draws).bfloat16() for _ in range(2))
    W_U = torch.randn(64, 2000, generator=draws).bfloat16()
    logits_FV = ours.double() @ W_U.double()
    lens = logit_lens(ours, W_U)
    assert torch.equal(lens.raised_CN, logits_FV.topk(10).indices)
    lowered = logits_FV.topk(10, largest=False).values
    torch.testing.assert_close(lens.lowered_by_CN.double(), lowered, rtol=1e-5, atol=1e-5)
    ours_FD, theirs_FD = (torch.nn.functional.normalize(of.double()) for of in (ours, theirs))
    require_nearest(nearest_features(ours, theirs), ours_FD @ theirs_FD.T)


def test_nearest_features_of_groups_that_are_no_neighbours_are_those_of_float64() -> None:
    groups = tuple(LayerGroup(*ends) for ends in ((0, 1), (2, 2), (3, 5), (6, 6), (7, 7), (8, 9)))
    wide = random_suite(groups)
    found = collect_features(wide, PlantedModel(10), planted_tokens(), features="1-7", **COUNTS)
    for n, of in enumerate(found.groups):
        # The layers of this group and of the other that are closest to each other.
        pairs = [(groups[n].first, other.last) for other in groups[: max(0, n - 1)]]
        pairs += [(groups[n].last, other.first) for other in groups[n + 2 :]]
        best = [cosines(wide, *pair)[of.feature_C].max(1) for pair in pairs]
        expected_CN, at_CN = torch.stack([each.values for each in best], 1).topk(3)
        theirs_CG = torch.stack([each.indices for each in best], 1)
        assert of.elsewhere is not None
        torch.testing.assert_close(of.elsewhere.cosine_CN.double(), expected_CN, atol=1e-5, rtol=0)
        assert torch.equal(of.elsewhere.layer_CN, torch.tensor([b for _, b in pairs])[at_CN])
        assert torch.equal(of.elsewhere.feature_CN, theirs_CG.gather(1, at_CN))


def test_a_planted_feature_is_found_on_its_layers() -> None:
    found = collect_features(planted_suite(), PlantedModel(), planted_tokens(), **COUNTS)
    of, c = found.find(FEATURE)
    assert [int(at.n_firings_C[c]) > 0 for at in of.layers] == [False, True, True, False]
    assert [float(at.highest_C[c]) for at in of.layers] == [0, 2, 2, 0]
    for example in found.examples(FEATURE, 1):
        fires = [value > 0 for value in example.activations[1]]
        assert fires == [token == "<7>" for token in example.tokens]
    assert found.examples(FEATURE, 0) == []
    lens = of.layers[1].lens
    assert lens is not None
    assert int(lens.raised_CN[c, 0]) == 3


def test_memory_does_not_grow_with_the_text(suite: SAESuite, model: Any, text: Dataset) -> None:
    sizes = {
        n: collect_features(
            in_memory(suite), model, text, n_batches=n, batch_size_prompts=4
        ).n_bytes
        for n in (1, 3)
    }
    assert sizes[1] == sizes[3]


def in_memory(suite: SAESuite) -> SAESuite:
    return SAESuite(suite.source)


def test_the_same_text_gives_the_same_examples_and_more_batches_more(
    found: SuiteFeatures, suite: SAESuite, model: Any, text: Dataset
) -> None:
    sizes: dict[str, Any] = {"n_top": N_TOP, "n_sampled": N_SAMPLED, "width": WIDTH}
    again = collect_features(in_memory(suite), model, text, **COUNTS, **sizes)
    for (_, at), (_, other) in zip(each_layer(found), each_layer(again)):
        assert torch.equal(at.sampled.prompt_CK, other.sampled.prompt_CK)
        assert torch.equal(at.top.peak_CK, other.top.peak_CK)


# --- a chosen set ---


def test_a_chosen_set_is_what_the_whole_has_of_it(
    found: SuiteFeatures, suite: SAESuite, model: Any, text: Dataset
) -> None:
    some = collect_features(in_memory(suite), model, text, features="3-5,100", **COUNTS)
    for (_, whole), (of, part) in zip(each_layer(found), each_layer(some)):
        assert of.feature_C.tolist() == [3, 4, 5, 100]
        assert torch.equal(part.n_firings_C, whole.n_firings_C[of.feature_C])
        assert torch.equal(part.highest_C, whole.highest_C[of.feature_C])
        assert torch.equal(part.top.prompt_CK[:, 0], whole.top.prompt_CK[of.feature_C, 0])


@pytest.mark.parametrize("top", ["dense:5", "rare:5", "layer-specific:5", "random:5"])
def test_the_most_of_a_kind_by_their_firings_in_training(
    suite: SAESuite, model: Any, text: Dataset, top: str
) -> None:
    few: dict[str, Any] = {"n_batches": 1, "batch_size_prompts": 4}
    some = collect_features(in_memory(suite), model, text, top=top, **few)
    of = some.groups[0]
    frequency_LF = torch.stack([10 ** suite.log_sparsity(layer) for layer in of.group.layers])
    total_F = frequency_LF.sum(0)
    alive_F = total_F > 1e-8
    by_F = {
        "dense": total_F,
        "rare": torch.where(alive_F, -total_F, -torch.inf),
        "layer-specific": torch.where(alive_F, frequency_LF.max(0).values / total_F, 0),
        "random": torch.zeros_like(total_F),
    }[top.partition(":")[0]]
    assert len(of.feature_C) == len(set(of.feature_C.tolist())) == 5
    torch.testing.assert_close(by_F[of.feature_C].sort().values, by_F.topk(5).values.sort().values)


# --- what is written ---


def test_the_table_has_a_row_per_feature_and_layer(found: SuiteFeatures, suite: SAESuite) -> None:
    table = pd.read_csv(suite.require_folder() / "features" / "features.csv")
    assert len(table) == 192 * 3
    at = found.groups[0].layers[1]
    rows = table[(table["layer"] == 4)]
    assert rows["feature"].tolist() == [f"layers_3-4/{n}" for n in range(192)]
    assert rows["highest"].tolist() == pytest.approx(at.highest_C.tolist())
    assert rows["density"].tolist() == pytest.approx((at.n_firings_C / found.n_tokens).tolist())


def test_the_command_writes_a_page_without_texts(
    suite: SAESuite, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = SAESuite.load(suite.require_folder()).save(tmp_path / "copy")
    args = ("features", str(copy), "--features", "0-9", "--no_texts", *QUICK)
    assert main(args) == 0
    printed = capsys.readouterr().out
    assert "20 features of 2 groups on " in printed
    assert f"Look at it: {copy / 'features' / 'index.html'}" in printed
    data = (copy / "features" / "data" / "layers_3-4-0.js").read_text()
    assert '"texts"' not in data
    assert "The texts are the dataset" not in (copy / "features" / "index.html").read_text()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--features", "0-192"), "features '0-192' reach beyond layers_3-4, whose 192 features"),
        (("--features", "x"), "features 'x' cannot be read; name them as in 0-99,512"),
        (("--top", "best"), "top 'best' is none of dense, rare, layer-specific, random"),
        (("--top", "rare", "--features", "1"), "features and top both say which"),
        (("--dataset_path", "nowhere/at/all"), "nowhere/at/all"),
        (("--context_size", "40000"), "context_size"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    suite: SAESuite, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], said: str
) -> None:
    with warnings.catch_warnings(action="ignore"):
        assert main(("features", str(suite.require_folder()), *QUICK, *flags)) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(lines) == 1
    assert said in lines[0]


def test_an_empty_dataset_is_one_line_and_status_2(
    suite: SAESuite, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    Dataset.from_dict({"text": []}).to_parquet(tmp_path / "empty" / "text.parquet")
    flags = ("--dataset_path", str(tmp_path / "empty"))
    assert main(("features", str(suite.require_folder()), *QUICK, *flags)) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(lines) == 1
    assert "holds no rows" in lines[0]


def test_no_suite_and_another_model_are_one_line_and_status_2(
    suite: SAESuite, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(("features", str(tmp_path))) == 2
    other = tmp_path / "other"
    make_other_model(other)
    args = ("features", str(suite.require_folder()), "--model_name", str(other), *QUICK)
    assert main(args) == 2
    errors = re.findall(r"error: (.*)", capsys.readouterr().err)
    assert len(errors) == 2
    assert "give the model that the suite was trained on" in errors[1]


def make_other_model(folder: Path) -> None:
    """Of the same family, and half as wide."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    config = AutoConfig.from_pretrained(MODEL_FOLDER)
    config.hidden_size = 48
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(MODEL_FOLDER).save_pretrained(folder)


def test_a_suite_without_its_groups_shows_its_features_too(
    suite: SAESuite, model: Any, text: Dataset, tmp_path: Path
) -> None:
    """The layers' own SAEs are all that is read."""
    import shutil

    shutil.copytree(suite.require_folder(), tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "groups")
    few: dict[str, Any] = {"n_batches": 1, "batch_size_prompts": 4}
    found = collect_features(tmp_path / "copy", model, text, features="0", **few)
    assert [of.group.name for of in found.groups] == ["layers_3-4", "layers_11"]

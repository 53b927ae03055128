"""Do features carry what the model does: prompts that fit, exact identities, planted features."""

import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE, TrainingSAE
from sae_lens.load_model import HookedProxyLM, load_model
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.hook_points import HookedRootModule, HookPoint
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from sae_lens_groups import GroupSAETrainingRunner
from sae_lens_groups.demo.model import D_IN as DEMO_D_IN
from sae_lens_groups.demo.model import MODEL_CLASS_NAME, MODEL_FOLDER, stdlib_tokens
from sae_lens_groups.demo.run import demo_config
from sae_lens_groups.errors import ConfigError, HookNameError, UnknownNameError
from sae_lens_groups.evaluate.circuits import (
    TASKS,
    CircuitTask,
    CurvePoint,
    FaithfulnessReport,
    LayerCurve,
    PromptPair,
    TaskResult,
    build_pairs,
    measure_faithfulness,
)
from sae_lens_groups.evaluate.circuits.curve import Nodes, feature_counts
from sae_lens_groups.evaluate.circuits.pairs import (
    PADDING,
    PairBatch,
    Vocabulary,
    log_odds,
    probability_difference,
)
from sae_lens_groups.evaluate.circuits.tasks import (
    EVENTS,
    EXPRESSIONS,
    GIFTS,
    NAMES,
    NOUNS,
    PLACES,
    PREPOSITIONS,
    SPAN,
    SUBJECT,
    THINGS,
    VARIABLES,
    VERBS,
)

from .tiny import ARCHITECTURES, made_once, sae_config

D_MODEL, D_HEAD, D_SAE = 48, 12, 100
RESID = "blocks.0.hook_resid_post"


# --- models and SAEs ---


def words_of_all_tasks() -> list[str]:
    nouns_and_verbs = [word for forms in (*NOUNS, *VERBS) for word in forms]
    return [
        *EXPRESSIONS,
        *VARIABLES,
        *("(", ")", "[", "]"),
        SPAN,
        *EVENTS,
        *(f"{year:02d}" for year in range(100)),
        *GIFTS,
        *NAMES,
        *PLACES,
        *THINGS,
        SUBJECT,
        *PREPOSITIONS,
        *nouns_and_verbs,
    ]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token per word, bracket and two digits."""
    words = Tokenizer(models.WordLevel(unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [pre_tokenizers.Whitespace(), pre_tokenizers.Split(Regex(r"\d\d"), "isolated")]
    )
    trainer = trainers.WordLevelTrainer(special_tokens=["?", "<s>"], show_progress=False)
    words.train_from_iterator(words_of_all_tasks(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?", bos_token="<s>")


@pytest.fixture(scope="module")
def model(
    tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> HookedTransformer:
    """Two layers, trained until they solve every task."""

    def train(folder: Path) -> None:
        torch.save(trained_model(tokenizer).state_dict(), folder / "model.pt")

    folder = made_once(tmp_path_factory, "model of circuits", train)
    model = untrained_model(tokenizer)
    model.load_state_dict(torch.load(folder / "model.pt"))
    return model


def untrained_model(tokenizer: PreTrainedTokenizerFast) -> HookedTransformer:
    torch.manual_seed(0)
    model = HookedTransformer(
        HookedTransformerConfig(
            n_layers=2,
            d_model=D_MODEL,
            n_ctx=32,
            d_head=D_HEAD,
            n_heads=4,
            d_vocab=len(tokenizer),
            act_fn="gelu",
            device="cpu",
        )
    )
    model.tokenizer = tokenizer
    return model


def trained_model(tokenizer: PreTrainedTokenizerFast) -> HookedTransformer:
    model = untrained_model(tokenizer)
    batches = [training_batch(task, tokenizer) for task in TASKS.values()]
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(100):
        loss = torch.stack([loss_on(model, batch) for batch in batches]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    optimizer.zero_grad()
    return model


def training_batch(task: CircuitTask, tokenizer: PreTrainedTokenizerFast) -> PairBatch:
    """Pairs as they are and the other way round: greater_than has the year 01 in one place only."""
    pairs = build_pairs(task, tokenizer, 250, seed=1)
    turned = [
        PromptPair(clean=p.counterfactual, counterfactual=p.clean, answers=p.wrong, wrong=p.answers)
        for p in pairs
    ]
    return PairBatch.of(pairs + turned, task.metric, "cpu")


def loss_on(model: HookedTransformer, batch: PairBatch) -> torch.Tensor:
    """Minus the answers' mean log probability, on 32 of the pairs.

    Not that of any answer, which is best where the model always says 99.
    """
    drawn = torch.randint(len(batch.clean_PT), (32,))
    log_probs = model(batch.clean_PT[drawn])[:, -1].log_softmax(-1)
    answers = batch.answers_PA[drawn]
    of_answers = log_probs.gather(1, answers.clamp(min=0)).masked_fill(answers < 0, 0)
    return -(of_answers.sum(-1) / (answers >= 0).sum(-1)).mean()


@pytest.fixture(scope="module")
def demo_model() -> HookedProxyLM:
    model = load_model(MODEL_CLASS_NAME, str(MODEL_FOLDER), device="cpu")
    assert isinstance(model, HookedProxyLM)
    return model


def make_sae(folder: Path, architecture: str = "topk", d_in: int = D_MODEL, **settings: Any) -> Any:
    """An SAE with random weights, as SAELens saves it for inference."""
    torch.manual_seed(1)
    sizes: dict[str, Any] = {"d_in": d_in, "d_sae": D_SAE}
    if architecture == "matryoshka_batchtopk":
        sizes["matryoshka_widths"] = [20, D_SAE]
    TrainingSAE.from_dict(
        sae_config(architecture, **sizes, **settings).to_dict()
    ).save_inference_model(folder)
    return SAE.load_from_disk(folder)


def standard_sae(W_enc: torch.Tensor, b_enc: torch.Tensor, b_dec: torch.Tensor) -> SAE[Any]:
    """relu(x W_enc + b_enc) W_enc^T + b_dec."""
    sae = SAE.from_dict(
        {
            "architecture": "standard",
            "d_in": W_enc.shape[0],
            "d_sae": W_enc.shape[1],
            "apply_b_dec_to_input": False,
        }
    )
    weights = {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_enc.T.contiguous(), "b_dec": b_dec}
    sae.load_state_dict(weights)
    return sae


class BracketModel(HookedRootModule):
    """Logits are linear in the mean of the tokens' embeddings; dimension 0 alone tells brackets."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        token = tokenizer.convert_tokens_to_ids
        generator = torch.Generator().manual_seed(0)
        embed = torch.randn(len(tokenizer), 4, generator=generator)
        embed[:, 0] = 0
        embed[token("("), 0], embed[token("["), 0] = 1, -1
        unembed = torch.zeros(4, len(tokenizer))
        unembed[0, token(")")], unembed[0, token("]")] = 10, -10
        self.embed = torch.nn.Parameter(embed)
        self.unembed = torch.nn.Parameter(unembed)
        self.blocks = torch.nn.ModuleList([Block(), Block()])
        self.setup()

    def forward(self, tokens: torch.Tensor, **_: Any) -> torch.Tensor:
        used: Any
        unused: Any
        used, unused = self.blocks
        x = used.hook_resid_post(self.embed[tokens])
        unused.hook_resid_post(x)
        return x.cumsum(dim=1) @ self.unembed


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hook_resid_post = HookPoint()


# --- prompts ---


def texts(tokenizer: PreTrainedTokenizerFast, pair: PromptPair) -> tuple[str, str, str, str]:
    """Clean prompt, counterfactual, answers and wrong tokens."""
    parts = (pair.clean, pair.counterfactual, pair.answers, pair.wrong)
    clean, counterfactual, answers, wrong = (str(tokenizer.decode(list(ids))) for ids in parts)
    return clean, counterfactual, answers, wrong


@pytest.mark.parametrize("name", TASKS)
def test_pairs_fit_together(tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    pairs = build_pairs(TASKS[name], tokenizer, 64)
    assert len(pairs) == len(set(pairs)) == 64
    assert len({len(prompt) for pair in pairs for prompt in (pair.clean, pair.counterfactual)}) == 1
    for pair in pairs:
        assert pair.clean[0] == pair.counterfactual[0] == tokenizer.bos_token_id
        assert pair.clean != pair.counterfactual
        assert pair.answers
        assert pair.wrong
        assert not set(pair.answers) & set(pair.wrong)


@pytest.mark.parametrize("name", TASKS)
def test_the_seed_decides_which_pairs_are_drawn(
    tokenizer: PreTrainedTokenizerFast, name: str
) -> None:
    task = TASKS[name]
    assert build_pairs(task, tokenizer, 20, seed=3) == build_pairs(task, tokenizer, 20, seed=3)
    assert build_pairs(task, tokenizer, 20, seed=3) != build_pairs(task, tokenizer, 20, seed=4)


def test_ioi_asks_for_the_name_that_is_not_repeated(tokenizer: PreTrainedTokenizerFast) -> None:
    for pair in build_pairs(TASKS["ioi"], tokenizer, 64):
        clean, counterfactual, answer, wrong = texts(tokenizer, pair)
        assert clean.split().count(answer) == counterfactual.split().count(wrong) == 1
        assert clean.split().count(wrong) == counterfactual.split().count(answer) == 2


def test_greater_than_asks_for_a_later_year(tokenizer: PreTrainedTokenizerFast) -> None:
    for pair in build_pairs(TASKS["greater_than"], tokenizer, 64):
        clean, counterfactual, answers, wrong = texts(tokenizer, pair)
        century, start, again = re.findall(r"\d\d", clean)
        assert re.findall(r"\d\d", counterfactual) == [century, "01", century]
        assert century == again
        assert answers.split() == [f"{year:02d}" for year in range(int(start) + 1, 100)]
        assert wrong.split() == [f"{year:02d}" for year in range(int(start) + 1)]


def test_subject_verb_asks_for_a_verb_that_agrees(tokenizer: PreTrainedTokenizerFast) -> None:
    plurals = {plural for _, plural in NOUNS}
    for pair in build_pairs(TASKS["subject_verb"], tokenizer, 64):
        clean, counterfactual, answers, wrong = texts(tokenizer, pair)
        subject, other = clean.split()[2], counterfactual.split()[2]
        assert (subject, other) in NOUNS or (other, subject) in NOUNS
        forms = ("are were have", "is was has")
        assert (answers, wrong) == (forms if subject in plurals else forms[::-1])


def test_closing_bracket_asks_for_the_bracket_that_is_open(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    for pair in build_pairs(TASKS["closing_bracket"], tokenizer, 64):
        clean, counterfactual, answer, wrong = texts(tokenizer, pair)
        assert clean.count("(" if answer == ")" else "[") == 1
        assert counterfactual.count("(" if wrong == ")" else "[") == 1
        assert {answer, wrong} == {")", "]"}


def test_a_bracket_is_closed_by_any_token_that_starts_so() -> None:
    demo_tokenizer = AutoTokenizer.from_pretrained(MODEL_FOLDER)
    closing = Vocabulary(demo_tokenizer).starting_with(")")
    assert {")", "),", "):", "))"} <= set(demo_tokenizer.convert_ids_to_tokens(closing))


def test_an_answer_is_one_token_that_stays_apart_from_the_prompt() -> None:
    vocabulary = Vocabulary(AutoTokenizer.from_pretrained(MODEL_FOLDER))
    assert vocabulary.next_token("return", " is") is not None
    assert vocabulary.next_token("return", " Mary") is None  # two tokens
    assert vocabulary.next_token("f(", "(") is None  # "((" is one


@pytest.mark.parametrize("name", ["ioi", "greater_than"])
def test_a_tokenizer_that_splits_the_answers_gives_no_pairs(name: str) -> None:
    assert build_pairs(TASKS[name], AutoTokenizer.from_pretrained(MODEL_FOLDER), 64) == []


# --- metrics ---


def test_metrics_of_two_pairs_by_hand() -> None:
    log_probs = torch.tensor([[0.5, 0.25, 0.125, 0.125], [0.1, 0.2, 0.3, 0.4]]).log()
    answers, wrong = torch.tensor([[0, 1], [3, PADDING]]), torch.tensor([[2], [0]])
    odds = torch.tensor([0.75 / 0.125, 0.4 / 0.1]).log()
    torch.testing.assert_close(log_odds(log_probs, answers, wrong), odds)
    difference = torch.tensor([0.75 - 0.125, 0.4 - 0.1])
    torch.testing.assert_close(probability_difference(log_probs, answers, wrong), difference)


# --- curves ---


def curve_of(saes: Mapping[str, SAE[Any]], model: Any, task: str = "closing_bracket") -> LayerCurve:
    (curve,) = measure_faithfulness(saes, model, [task], n_pairs=16).tasks[task].curves
    return curve


def require_identities(curve: LayerCurve) -> None:
    """What holds whatever the SAE is."""
    none, every = curve.points[0], curve.points[-1]
    assert none.n_features == 0
    assert every.faithfulness_with_error == pytest.approx(1, abs=1e-4)
    assert none.completeness_with_error == pytest.approx(1, abs=1e-4)
    assert none.faithfulness_without_error == pytest.approx(0, abs=1e-4)
    assert every.completeness_without_error == pytest.approx(0, abs=1e-4)
    # All features but none of them are all of them.
    assert none.faithfulness_with_error == every.completeness_with_error
    assert every.faithfulness_without_error == none.completeness_without_error
    # The guard can fail: a random SAE's error matters.
    assert abs(none.faithfulness_with_error) > 0.01


@pytest.mark.parametrize("mode", ["none", "layer_norm"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_identities_hold_for_every_architecture(
    model: HookedTransformer, tmp_path: Path, architecture: str, mode: str
) -> None:
    sae = make_sae(tmp_path, architecture, normalize_activations=mode)
    require_identities(curve_of({RESID: sae}, model))


@pytest.mark.parametrize("task", TASKS)
def test_identities_hold_on_every_task(model: HookedTransformer, tmp_path: Path, task: str) -> None:
    curve = curve_of({RESID: make_sae(tmp_path)}, model, task)
    require_identities(curve)
    assert curve.share == pytest.approx(1, abs=1e-5)


@pytest.mark.seam
def test_identities_hold_for_a_transformers_model(
    demo_model: HookedProxyLM, tmp_path: Path
) -> None:
    curve = curve_of({"gpt_neox.layers.9": make_sae(tmp_path, d_in=DEMO_D_IN)}, demo_model)
    require_identities(curve)
    assert curve.layer == 9
    assert curve.share == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    "reshape_activations", ["none", "hook_z"], ids=["flattened_for_the_sae", "by_the_sae"]
)
def test_identities_hold_for_attention_heads(
    model: HookedTransformer, tmp_path: Path, reshape_activations: str
) -> None:
    sae = make_sae(tmp_path, reshape_activations=reshape_activations)
    curve = curve_of({"blocks.0.attn.hook_z": sae}, model)
    require_identities(curve)
    assert curve.share != pytest.approx(1, abs=1e-4)  # embeddings pass it by


def test_the_curves_of_heads_do_not_depend_on_who_flattens_them(
    model: HookedTransformer, tmp_path: Path
) -> None:
    curves = [
        curve_of({"blocks.0.attn.hook_z": make_sae(tmp_path / by, reshape_activations=by)}, model)
        for by in ("none", "hook_z")
    ]
    assert curves[0] == curves[1]


def test_one_head_is_replaced_alone(model: HookedTransformer, tmp_path: Path) -> None:
    name = "blocks.0.attn.hook_z"
    shares = []
    for head in range(4):
        sae = make_sae(tmp_path / str(head), d_in=D_HEAD)
        sae.cfg.metadata.hook_head_index = head
        curve = curve_of({name: sae}, model)
        shares.append(curve.share)
        if curve.points:
            require_identities(curve)
    whole = curve_of({name: make_sae(tmp_path / "all")}, model).share
    assert all(abs(share - whole) > 0.01 for share in shares)
    assert max(shares) >= 0.05


def test_a_hook_that_the_score_does_not_depend_on_has_no_curve(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    sae = standard_sae(torch.eye(4), torch.zeros(4), torch.zeros(4))
    curve = curve_of({"blocks.1.hook_resid_post": sae}, BracketModel(tokenizer))
    assert curve.share == 0
    assert curve.points == ()
    assert curve.sufficient_with_error is None


def test_an_exact_sae_has_no_error_to_include(model: HookedTransformer) -> None:
    both_signs = torch.cat([torch.eye(D_MODEL), -torch.eye(D_MODEL)], dim=1)
    sae = standard_sae(both_signs, torch.zeros(2 * D_MODEL), torch.zeros(D_MODEL))
    for point in curve_of({RESID: sae}, model).points:
        assert point.faithfulness_with_error == pytest.approx(
            point.faithfulness_without_error, abs=1e-4
        )
        assert point.completeness_with_error == pytest.approx(
            point.completeness_without_error, abs=1e-4
        )


def test_the_feature_that_alone_carries_the_answer_comes_first(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    # Feature 5 is x[0] + 1: 2 where ( is open, 0 where [ is. The others read the rest of x.
    W_enc = torch.zeros(4, 8)
    W_enc[0, 5] = 1
    W_enc[1:, :3], W_enc[1:, -2:] = torch.eye(3), -torch.eye(3)[:, :2]
    b_enc = torch.zeros(8)
    b_enc[5] = 1
    sae = standard_sae(W_enc, b_enc, torch.tensor([-1.0, 0, 0, 0]))
    points = curve_of({RESID: sae}, BracketModel(tokenizer)).points
    assert [point.n_features for point in points] == [0, 1, 2, 4, 8]
    assert points[0].faithfulness_with_error == pytest.approx(0, abs=1e-5)
    for point in points[1:]:
        assert point.faithfulness_with_error == pytest.approx(1, abs=1e-5)
        assert point.faithfulness_without_error == pytest.approx(1, abs=1e-5)
        assert point.completeness_with_error == pytest.approx(0, abs=1e-5)


def test_attributions_are_exact_where_the_score_is_linear(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    clean, counterfactual = torch.randn(2, 3, 5, 4, generator=generator)  # 3 pairs of 5 tokens
    direction = torch.randn(5, 4, generator=generator)

    def score(x_PTD: torch.Tensor) -> torch.Tensor:
        return (x_PTD * direction).sum(dim=(1, 2))

    nodes = Nodes(make_sae(tmp_path, d_in=4, k=20), clean, counterfactual)
    every = torch.ones(D_SAE, dtype=torch.bool)
    whole = score(nodes.activations(every, with_error=True))
    without_each = [
        score(nodes.activations(every & (torch.arange(D_SAE) != feature), with_error=True))
        for feature in range(D_SAE)
    ]
    expected = torch.stack([(whole - without).mean() for without in without_each])
    torch.testing.assert_close(nodes.attributions(score), expected, atol=1e-5, rtol=1e-4)
    assert expected.abs().max() > 0.01


def test_completeness_is_the_faithfulness_of_all_other_features(tmp_path: Path) -> None:
    """At the seam where both are made: keeping S's complement is dropping S."""
    clean, counterfactual = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    sae = make_sae(tmp_path, d_in=4)
    nodes, swapped = Nodes(sae, clean, counterfactual), Nodes(sae, counterfactual, clean)
    keep = torch.arange(D_SAE) % 3 == 0
    torch.testing.assert_close(
        nodes.activations(~keep, with_error=True), swapped.activations(keep, with_error=False)
    )


def test_half_precision_keeps_the_identities(model: HookedTransformer, tmp_path: Path) -> None:
    half = copy.deepcopy(model).to(torch.bfloat16)
    require_identities(curve_of({RESID: make_sae(tmp_path)}, half))


def test_measuring_leaves_no_gradients_and_needs_no_gradient_mode(
    model: HookedTransformer, tmp_path: Path
) -> None:
    sae = make_sae(tmp_path)
    curve = curve_of({RESID: sae}, model)
    with torch.no_grad():
        assert curve_of({RESID: sae}, model) == curve
    assert all(weight.grad is None for weight in (*model.parameters(), *sae.parameters()))


def test_a_hooked_transformer_is_entered_at_the_layer(
    model: HookedTransformer, tmp_path: Path
) -> None:
    """Its blocks run twice, on clean and counterfactual prompts, and again where an SAE is below."""
    n_passes = [0] * len(model.blocks)

    def count(layer: int) -> Callable[..., None]:
        def counting(*_: Any) -> None:
            n_passes[layer] += 1

        return counting

    handles = [block.register_forward_hook(count(i)) for i, block in enumerate(model.blocks)]
    curve = curve_of({"blocks.0.hook_resid_post": make_sae(tmp_path)}, model)
    for handle in handles:
        handle.remove()
    # The prompts without the hook's activations, the gradient, and four mixtures per point.
    assert n_passes == [2, 2 + 2 + 4 * len(curve.points)]


@pytest.mark.parametrize(
    ("d_sae", "counts"),
    [(1, [0, 1]), (2, [0, 1, 2]), (8, [0, 1, 2, 4, 8]), (12, [0, 1, 2, 4, 8, 12])],
)
def test_counts_are_powers_of_two_between_none_and_all(d_sae: int, counts: list[int]) -> None:
    assert feature_counts(d_sae) == counts


# --- the report ---


def test_the_demo_model_solves_what_code_teaches_alone(demo_model: HookedProxyLM) -> None:
    results = measure_faithfulness({}, demo_model).tasks
    assert results["closing_bracket"].solved
    assert (results["closing_bracket"].accuracy or 0) >= 0.8
    assert results["closing_bracket"].n_pairs == 64
    for name in ("greater_than", "ioi"):
        assert results[name].accuracy is None
        assert results[name].message == (
            f"{name} cannot be built for this tokenizer: 0 pairs of prompts fit and 16 are needed, "
            "with answers that are single tokens and both prompts of a pair equally long; left out"
        )
    assert not results["subject_verb"].solved
    assert re.fullmatch(
        r"the model does not solve subject_verb: right on \d\d% of 64 prompts, 80% are needed; "
        "left out",
        results["subject_verb"].message or "",
    )


def test_a_model_that_gets_less_right_in_the_counterfactual_alone_is_not_accurate(
    model: HookedTransformer,
) -> None:
    blind = copy.deepcopy(model)
    with torch.no_grad():
        blind.unembed.W_U.zero_()  # both prompts score alike
    result = measure_faithfulness({}, blind, ["ioi"]).tasks["ioi"]
    assert result.accuracy == 0
    assert not result.solved


@pytest.mark.slow
def test_trained_features_carry_the_answer(demo_model: HookedProxyLM) -> None:
    cfg = demo_config("2-3", None, training_tokens=30_000)
    suite = GroupSAETrainingRunner(cfg, override_dataset=stdlib_tokens("held_out")).run()
    report = measure_faithfulness(suite, demo_model, ["closing_bracket"], n_pairs=32)
    curves = report.tasks["closing_bracket"].curves
    assert [curve.hook_name for curve in curves] == list(suite)
    for curve in curves:
        assert curve.sufficient_with_error is not None
        assert curve.sufficient_with_error <= 64  # of 768
        faithful = {point.n_features: point.faithfulness_with_error for point in curve.points}
        assert faithful[0] < 0.5 < faithful[64]


def test_the_report_as_rows(model: HookedTransformer, tmp_path: Path) -> None:
    saes = {f"blocks.{n}.hook_resid_post": make_sae(tmp_path / str(n)) for n in (0, 1)}
    report = measure_faithfulness(saes, model, ["ioi", "closing_bracket"], n_pairs=16)
    rows = report.to_rows()
    assert list(rows[0]) == [
        "task",
        "layer",
        "hook_name",
        "n_features",
        "faithfulness_with_error",
        "faithfulness_without_error",
        "completeness_with_error",
        "completeness_without_error",
    ]
    counts = [0, 1, 2, 4, 8, 16, 32, 64, 100]
    assert [(row["task"], row["layer"], row["n_features"]) for row in rows] == [
        (task, layer, n) for task in ("ioi", "closing_bracket") for layer in (0, 1) for n in counts
    ]
    assert report.tasks["ioi"].solved
    assert report.tasks["ioi"].curves[1].hook_name == "blocks.1.hook_resid_post"


def test_the_smallest_sufficient_number_of_features() -> None:
    point = CurvePoint(
        n_features=0,
        faithfulness_with_error=0.5,
        faithfulness_without_error=0.0,
        completeness_with_error=1.0,
        completeness_without_error=0.5,
    )
    points = (
        point,
        replace(point, n_features=1, faithfulness_with_error=0.8),
        replace(point, n_features=2, faithfulness_with_error=0.9, faithfulness_without_error=0.79),
    )
    curve = LayerCurve(hook_name=RESID, share=1.0, points=points)
    assert curve.sufficient_with_error == 1
    assert curve.sufficient_without_error is None


def test_a_task_left_out_has_no_rows() -> None:
    left_out = TaskResult(task="ioi", n_pairs=3, message="too few")
    report = FaithfulnessReport({"ioi": left_out})
    assert report.to_rows() == []
    assert not report.tasks["ioi"].solved


def test_what_cannot_be_measured_is_refused_at_once(
    model: HookedTransformer, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    with pytest.raises(
        UnknownNameError,
        match="task 'docstring' is not known; known names: "
        "closing_bracket, greater_than, ioi, subject_verb",
    ):
        measure_faithfulness({}, model, ["ioi", "docstring"])
    with pytest.raises(ConfigError, match="n_pairs is 4; at least 16 pairs of prompts are needed"):
        measure_faithfulness({}, model, n_pairs=4)
    with pytest.raises(HookNameError, match=r"no hook at blocks.7.hook_resid_post, where the SAEs"):
        measure_faithfulness({"blocks.7.hook_resid_post": make_sae(tmp_path)}, model)
    model_without = BracketModel(tokenizer)
    model_without.tokenizer = None  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="the model has no tokenizer"):
        measure_faithfulness({}, model_without)

"""The model card: what it says of every kind of suite, its programs, and what a re-publish keeps."""

import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st
from sae_lens import SAE, HookedSAETransformer
from sae_lens.load_model import load_model

from sae_lens_groups import GroupSAETrainingRunner, SAESuite
from sae_lens_groups.demo.model import MODEL_FOLDER
from sae_lens_groups.errors import PublishError
from sae_lens_groups.layers import HookTemplate, LayerGroup, parse_ranges
from sae_lens_groups.publish.card import CardFacts, model_card
from sae_lens_groups.publish.markdown import drawing
from sae_lens_groups.saved.manifest import SuiteManifest
from sae_lens_groups.saved.transfer_report import LayerTransfer, TransferReport

from .tiny import D_IN, group_config, make_model, make_tokens, sae_config

REPO = "me/my-suite"
END = "<!-- end sae-lens-groups -->"


def facts(
    groups: str = "0-3,4-7,8-10,11",
    hook: str = "blocks.{layer}.hook_resid_post",
    scaling: float | None = 0.5,
    manifest: Mapping[str, Any] | None = None,
    cfg: Mapping[str, Any] | None = None,
    run: Mapping[str, Any] | None = None,
    **changes: Any,
) -> CardFacts:
    """A made-up suite of Pythia-160M."""
    parsed = parse_ranges(groups)
    layers = [layer for group in parsed for layer in group.layers]
    of_suite = SuiteManifest(
        groups=parsed,
        hook_template=HookTemplate.from_text(hook),
        scaling_factors=dict.fromkeys(layers, scaling),
        **{
            "model_name": "pythia-160m",
            "versions": {"sae-lens-groups": "0.5.0", "sae-lens": "6.54.12"},
            "dataset_rows_read": 100,
            **(manifest or {}),
        },
    )
    metadata = {
        "model_name": of_suite.model_name,
        "model_class_name": "HookedTransformer",
        "context_size": 1024,
        "l0": 31.9,
    }
    of_layer = {
        "architecture": "topk",
        "d_in": 768,
        "d_sae": 12288,
        "k": 32,
        "normalize_activations": "none",
        **(cfg or {}),
    }
    settings = {
        "sae": {"architecture": "topk", "normalize_activations": "expected_average_only_in"},
        "layer_groups": groups,
        "training_tokens": 1_000_000,
        "context_size": 1024,
        "lr": 2e-4,
        "seed": 42,
        "dataset_path": "monology/pile-uncopyrighted",
        "is_dataset_tokenized": False,
        **(run or {}),
    }
    return CardFacts(
        **{
            "repo_id": REPO,
            "manifest": of_suite,
            "runner_cfg": settings,
            "sae_cfgs": {
                name: {**of_layer, "metadata": {**metadata, "hook_name": name}}
                for name in of_suite.hook_names
            },
            "scores": None,
            "base_model": "EleutherAI/pythia-160m",
            "dataset_name": "monology/pile-uncopyrighted",
            "license": None,
            **changes,
        }
    )


def scores(of: CardFacts, **columns: str) -> list[dict[str, str]]:
    """Rows of `evaluation.csv`, the same for all layers."""
    manifest = of.manifest
    return [
        {"layer": str(layer), "hook_name": name, "explained_variance": "0.91234", **columns}
        for layer, name in zip(manifest.layers, manifest.hook_names)
    ]


def imported() -> CardFacts:
    return facts("0,1,2", scaling=None, runner_cfg=None, manifest={"versions": {}})


def section(card: str, title: str) -> str:
    """The text under one heading."""
    return card.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def programs(card: str) -> list[str]:
    """The Python programs of a card, whatever their fences."""
    found = re.findall(r"^(`{3,})python\n(.*?)^\1$", card, re.DOTALL | re.MULTILINE)
    return [text for _, text in found]


def program(card: str, word: str) -> str:
    """The only program with this word."""
    [found] = [text for text in programs(card) if word in text]
    return found


def table_rows(card: str) -> list[list[str]]:
    rows = [line for line in section(card, "The layers").splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


# --- what it says ---


def test_the_front_matter_is_what_the_hubs_own_tools_read() -> None:
    assert ModelCard(model_card(facts(license="mit"))).data.to_dict() == {
        "library_name": "saelens",
        "tags": [
            "saelens",
            "sparse-autoencoder",
            "sae",
            "mechanistic-interpretability",
            "sae-lens-groups",
        ],
        "license": "mit",
        "base_model": "EleutherAI/pythia-160m",
        "datasets": ["monology/pile-uncopyrighted"],
    }


def test_what_is_unknown_or_no_hub_id_is_left_out_of_the_front_matter() -> None:
    unknown = facts(base_model=None, dataset_name=None)
    refused = facts(base_model="a--b", dataset_name="one/two/three")
    for given_facts in (unknown, refused):
        data = ModelCard(model_card(given_facts)).data.to_dict()
        assert sorted(data) == ["library_name", "tags"]


def test_a_license_that_the_hub_would_refuse_is_named() -> None:
    with pytest.raises(PublishError, match=r"license 'MIT License' .* such as mit, apache-2\.0"):
        model_card(facts(license="MIT License"))


def test_the_first_lines_say_what_there_is_and_how_to_load_it() -> None:
    first = model_card(facts()).partition("\n## ")[0]
    assert (
        "12 sparse autoencoders (SAEs) for layers 0-11 of "
        "[`EleutherAI/pythia-160m`](https://huggingface.co/EleutherAI/pythia-160m), one per layer, "
        "at the hook `blocks.{layer}.hook_resid_post`. Architecture `topk`: d_in 768, d_sae 12288, "
        "k 32. **4 SAEs were trained**"
    ) in first
    assert 'sae = SAE.from_pretrained("me/my-suite", "blocks.6.hook_resid_post")' in first


def test_an_architecture_that_is_exported_as_another_is_named_with_both() -> None:
    run = {"sae": {"architecture": "batchtopk"}}
    card = model_card(facts(cfg={"architecture": "jumprelu", "k": None}, run=run))
    assert "Architecture `jumprelu`: d_in 768, d_sae 12288. Trained as `batchtopk`" in card


def test_a_suite_of_one_layer_reads_like_one() -> None:
    first = model_card(facts("5")).partition("\n## ")[0]
    assert "A sparse autoencoder (SAE) for layer 5 of [`EleutherAI/pythia-160m`]" in first
    assert "one per layer" not in first


def test_the_groups_of_twelve_layers_are_drawn() -> None:
    assert drawing(parse_ranges("0-3,4-7,8-10,11")) == (
        "layer         0  1  2  3  4  5  6  7  8  9 10 11\n"
        "layers_0-3    ●──●──●──●\n"
        "layers_4-7                ●──●──●──●\n"
        "layers_8-10                           ●──●──●\n"
        "layers_11                                      ●"
    )


def test_the_groups_of_forty_eight_layers_fit_a_page() -> None:
    groups = parse_ranges("0-15,16-31,32-44,45,46,47")
    assert drawing(groups) == (
        "layer          0        10        20        30        40\n"
        "layers_0-15    ●●●●●●●●●●●●●●●●\n"
        "layers_16-31                   ●●●●●●●●●●●●●●●●\n"
        "layers_32-44                                   ●●●●●●●●●●●●●\n"
        "one SAE each                                                ●●●"
    )


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12), first=st.integers(0, 40))
def test_every_layer_is_one_dot_of_the_drawing(lengths: list[int], first: int) -> None:
    groups, layer = [], first
    for length in lengths:
        groups.append(LayerGroup(layer, layer + length - 1))
        layer += length
    _, *lines = drawing(groups).splitlines()
    columns = [column for line in lines for column, sign in enumerate(line) if sign == "●"]
    assert len(columns) == len(set(columns)) == sum(lengths)


def test_a_suite_without_groups_has_no_section_about_them() -> None:
    card = model_card(facts("0,1,2"))
    assert "One SAE was trained for each layer." in card
    assert "## The groups" not in card
    assert "of a group" not in card


def test_the_table_is_what_the_evaluation_wrote() -> None:
    table = "The hook name is what ... takes.\n\n| layer | l0 |\n| --: | --: |\n| 0 | 32.0 |"
    evaluated = replace(facts(), scores=scores(facts()), layer_table=table)
    assert section(model_card(evaluated), "The layers").strip() == table


def test_a_suite_that_was_evaluated_by_an_older_version_says_how_to_have_the_table() -> None:
    shown = section(model_card(replace(facts(), scores=scores(facts()))), "The layers")
    assert "evaluate again with `sae-lens-groups`, and publish again" in shown
    assert "sae-lens-groups evaluate my-suite" in shown


def test_a_suite_that_was_not_evaluated_says_so_and_how() -> None:
    known = section(model_card(facts()), "The layers")
    assert "**These SAEs were not evaluated before they were published**" in known
    assert "hf download me/my-suite --local-dir my-suite\nsae-lens-groups evaluate my-suite\n" in (
        known
    )
    assert "l0 in training" in known
    local = section(model_card(facts(base_model=None, dataset_name=None)), "The layers")
    assert "evaluate my-suite --model_name path/to/the/model --dataset_path path/to/text" in local


@pytest.mark.parametrize(
    ("suite", "statement"),
    [
        (facts(), "computes `f(s·x) / s` from `x`"),
        (facts(manifest={"layer_alignment": "affine"}), "computes `R(f(F(s·x))) / s`"),
        (facts(scaling=None), "in the units of these activations. Norms differ between layers"),
        (
            facts(scaling=None, run={"sae": {"normalize_activations": "covariance_whitening"}}),
            "on whitened activations: they can be compared across the layers of a group",
        ),
        (
            facts(scaling=None, cfg={"normalize_activations": "layer_norm"}),
            "(`normalize_activations` `layer_norm`), and its feature activations are in units of",
        ),
        (
            replace(
                imported(),
                sae_cfgs={"a": {"normalize_activations": "expected_average_only_in"}},
            ),
            "so SAELens does not scale",
        ),
        (imported(), "Feature activations are in the units of these activations."),
    ],
)
def test_the_units_of_feature_activations_are_stated(suite: CardFacts, statement: str) -> None:
    assert statement in section(model_card(suite), "Units of feature activations")


@pytest.mark.parametrize(
    ("suite", "statement"),
    [
        (facts(), "bit-identical within a group; only the vectors"),
        (facts(scaling=None), "bit-identical within a group; and so are all other parameters"),
        (facts(manifest={"layer_alignment": "orthogonal"}), "(`orthogonal` alignment)"),
        (
            facts(scaling=None, run={"sae": {"normalize_activations": "covariance_whitening"}}),
            "whitened by its own statistics",
        ),
    ],
)
def test_what_a_groups_layers_share_is_stated(suite: CardFacts, statement: str) -> None:
    assert statement in section(model_card(suite), "The groups")


def test_the_start_of_a_transferred_suite_is_told_layer_by_layer() -> None:
    report = TransferReport(
        init_from="their-suite",
        init_direction="backward",
        init_parameters="all",
        init_alignment="scale",
        layers={
            f"blocks.{layer}.hook_resid_post": LayerTransfer(
                source_hook_name=f"blocks.{layer + 1}.hook_resid_post",
                source_d_sae=16_384,
                features_by="sparsity.safetensors",
                zero_shot={"explained_variance": 0.4},
                final={"explained_variance": 0.8},
            )
            for layer in (0, 1)
        },
    )
    card = model_card(facts("0,1,2", manifest={"transfer": report}))
    assert "trained for each layer, except layer 2, whose SAE was taken over as it was." in card
    start = section(card, "What the SAEs started from")
    assert "of `their-suite`, not from random weights (all parameters, alignment `scale`)" in start
    assert (
        "Of 16,384 features each, those that fire most were taken (by sparsity.safetensors)"
        in start
    )
    assert "| 0 | `blocks.1.hook_resid_post` | 0.4000 | 0.8000 |" in start
    assert "say with `--init_from` where it lies" in section(card, "Train them again")


def test_an_imported_suite_says_that_its_training_is_not_known() -> None:
    card = model_card(imported())
    assert "They were trained elsewhere, and are published here together." in card
    assert "The settings of their training are not in this repository." in card
    assert "bloom2024saetrainingcodebase" in card
    assert "ghilardi" not in card
    assert "sae-lens-groups train --config_file" not in card


def test_a_suite_can_be_trained_again_from_what_is_published() -> None:
    again = section(model_card(facts()), "Train them again")
    assert (
        "hf download me/my-suite runner_cfg.json --local-dir .\n"
        "sae-lens-groups train --config_file runner_cfg.json --output_path my-suite-again\n```"
    ) in again
    assert "1,000,000 tokens per SAE of [`monology/pile-uncopyrighted`]" in again
    assert (
        "learning rate 0.0002, seed 42. Made with `sae-lens-groups==0.5.0`, `sae-lens==6.54.12`."
        in again
    )


def test_what_only_the_trainers_machine_had_has_to_be_named_to_train_again() -> None:
    local = facts(
        base_model=None,
        dataset_name=None,
        run={"dataset_path": "my_text", "layer_groups": "plan.json"},
    )
    again = section(model_card(local), "Train them again")
    assert (
        "--output_path my-suite-again \\\n    --model_name path/to/the/model \\\n"
        "    --dataset_path path/to/the/text \\\n    --layer_groups 0-3,4-7,8-10,11\n```"
    ) in again
    assert "The model `pythia-160m` was local" in again
    assert "The text `my_text` (not on the Hub) was local" in again
    from_python = facts(manifest={"dataset_rows_read": None})
    assert "passed in from Python" in section(model_card(from_python), "Train them again")


def test_both_papers_and_saelens_are_cited() -> None:
    cite = section(model_card(facts()), "Cite")
    assert "10.18653/v1/2025.emnlp-main.942" in cite
    assert "10.18653/v1/2024.blackboxnlp-1.32" in cite
    assert "{Bloom, Joseph and Tigges, Curt and Duong, Anthony and Chanin, David}" in cite


# --- its programs ---


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> SAESuite:
    run = GroupSAETrainingRunner(
        group_config("0-2,3", sae=sae_config(normalize_activations="expected_average_only_in")),
        override_dataset=make_tokens(),
        override_model=make_model(norms=(1, 4, 16, 16)),
    ).run()
    run.save(tmp_path_factory.mktemp("suite") / "suite")
    return run


def facts_of(suite: SAESuite, **changes: Any) -> CardFacts:
    cfgs = {name: sae.cfg.to_dict() for name, sae in suite.items()}
    known = facts()
    return replace(
        known, manifest=suite.manifest, runner_cfg=suite.runner_cfg, sae_cfgs=cfgs, **changes
    )


@pytest.fixture
def hub(suite: SAESuite, monkeypatch: pytest.MonkeyPatch) -> None:
    """`SAE.from_pretrained` that finds the suite's layers in its repository."""
    assert suite.path is not None
    folder = suite.path

    def from_pretrained(release: str, sae_id: str) -> SAE[Any]:
        assert release == REPO
        return SAE.load_from_disk(folder / sae_id)

    monkeypatch.setattr(SAE, "from_pretrained", staticmethod(from_pretrained))


def test_the_units_program_gives_the_groups_own_feature_activations(suite: SAESuite) -> None:
    card = model_card(facts_of(suite))
    group_sae = suite.group(LayerGroup(0, 2))
    for layer in range(3):
        rows = torch.randn(8, D_IN)
        names: dict[str, Any] = {"sae": suite.layer(layer), "activations": rows}
        exec(program(card, "strength ="), names)
        expected = group_sae.encode(suite.scaler(layer).scale(rows))
        torch.testing.assert_close(names["strength"], expected)
        assert not torch.allclose(names["features"], expected)


@pytest.mark.usefixtures("hub")
def test_the_program_for_transformer_lens_attaches_three_layers_at_once(
    suite: SAESuite, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded: list[str] = []

    def load(name: str, **_: Any) -> HookedSAETransformer:
        loaded.append(name)
        return HookedSAETransformer(make_model().cfg)

    monkeypatch.setattr(HookedSAETransformer, "from_pretrained_no_processing", load)
    text = program(model_card(facts_of(suite)), "HookedSAETransformer")
    assert "run_with_cache_with_saes(" in text
    exec(text.replace('"The cat sat on the mat"', "tokens"), {"tokens": torch.ones(1, 4).long()})
    assert loaded == ["EleutherAI/pythia-160m"]  # the suite's own model is called tiny
    assert capsys.readouterr().out == "torch.Size([1, 4, 48])\n" * 3


def demo_sae(hook_name: str) -> SAE[Any]:
    """An untrained SAE of the demo model's width."""
    torch.manual_seed(0)
    cfg = {"architecture": "topk", "d_in": 96, "d_sae": 32, "k": 4, "dtype": "float32"}
    rest = {"device": "cpu", "apply_b_dec_to_input": True, "normalize_activations": "none"}
    sae = SAE.from_dict({**cfg, **rest, "metadata": {"hook_name": hook_name}})
    torch.nn.init.normal_(sae.W_enc)
    return sae


@pytest.fixture
def of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CardFacts:
    """A suite of the demo model, which lies where the Hub's name of Pythia-14M finds it."""
    shutil.copytree(MODEL_FOLDER, tmp_path / "EleutherAI" / "pythia-14m")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(SAE, "from_pretrained", staticmethod(lambda _, name: demo_sae(name)))
    return with_metadata(
        facts(hook="gpt_neox.layers.{layer}", base_model="EleutherAI/pythia-14m"),
        model_class_name="AutoModelForCausalLM",
    )


def with_metadata(of: CardFacts, **metadata: Any) -> CardFacts:
    return replace(of, sae_cfgs={name: {"metadata": metadata} for name in of.sae_cfgs})


def test_a_block_of_transformers_is_the_hook_that_the_program_names_for_transformer_lens(
    of_transformers: CardFacts,
) -> None:
    names: dict[str, Any] = {}
    exec(program(model_card(of_transformers), "HookedSAETransformer"), names)
    model = load_model("AutoModelForCausalLM", "EleutherAI/pythia-14m")
    _, cache = model.run_with_cache(names["model"].to_tokens("The cat sat on the mat"))
    expected = demo_sae("").encode(cache["gpt_neox.layers.2"])  # the lowest: no SAE acts before it
    torch.testing.assert_close(
        names["cache"]["blocks.2.hook_resid_post.hook_sae_acts_post"], expected
    )


def test_a_model_that_transformer_lens_does_not_know_goes_through_saelens_loader(
    of_transformers: CardFacts,
) -> None:
    unknown = replace(of_transformers, base_model="me/pythia")
    assert "loads models by TransformerLens's names, and has none" in model_card(unknown)
    text = program(model_card(unknown), "load_model")
    names: dict[str, Any] = {}
    exec(text.replace("me/pythia", "EleutherAI/pythia-14m"), names)
    assert names["features"].count_nonzero() == 4 * names["tokens"].numel()


def test_a_block_of_a_model_that_transformer_lens_does_not_name_goes_through_its_bridge(
    of_transformers: CardFacts, capsys: pytest.CaptureFixture[str]
) -> None:
    unknown = replace(of_transformers, base_model="me/pythia")
    text = program(model_card(unknown), "SAETransformerBridge")
    exec(text.replace("me/pythia", "EleutherAI/pythia-14m"), {})
    shown = capsys.readouterr().out
    assert "No hook found" not in shown
    without, with_them = re.findall(r"tensor\(([\d.]+)", shown)
    assert abs(float(without) - float(with_them)) > 0.1


LIMIT = 20.0  # some of the tokens are beyond it


@pytest.mark.parametrize("prepend_bos", [True, False])
def test_the_programs_take_the_tokens_of_training(
    of_transformers: CardFacts, monkeypatch: pytest.MonkeyPatch, prepend_bos: bool
) -> None:
    norms = {"median": 1.0, "first_position": 90.0, "largest": 90.0, "top_share": 0.9}
    limited = {"max_activation_norm": LIMIT, "max_activation_norm_multiple": 30.0}
    metadata = {"model_class_name": "AutoModelForCausalLM", "prepend_bos": prepend_bos}
    trained = with_metadata(of_transformers, **metadata, **limited, activation_norms=norms)
    unknown = replace(trained, base_model="me/pythia")
    assert "beyond 30 times the median norm" in " ".join(model_card(unknown).split())
    names: dict[str, Any] = {}
    sae = demo_sae("gpt_neox.layers.2")
    sae.cfg.metadata.max_activation_norm = LIMIT
    monkeypatch.setattr(SAE, "from_pretrained", staticmethod(lambda *_: sae))
    text = program(model_card(unknown), "load_model")
    exec(text.replace("me/pythia", "EleutherAI/pythia-14m"), names)
    tokenizer: Any = names["model"].tokenizer
    bos = [tokenizer.bos_token_id] if prepend_bos else []
    assert names["tokens"].tolist() == [[*bos, *tokenizer("The cat sat on the mat").input_ids]]
    (activations,) = names["cache"].values()
    kept = activations[activations.norm(dim=-1) <= LIMIT]
    assert 0 < len(kept) < names["tokens"].numel()
    assert torch.equal(names["activations"], kept)


def test_the_card_says_that_prompts_began_with_bos_only_if_they_did(suite: SAESuite) -> None:
    """The suite was trained on rows of random tokens, with prepend_bos at its default."""
    assert suite[0].cfg.metadata.prepend_bos
    assert "prompts did not begin with a BOS token" in model_card(facts_of(suite))
    began = {"prepend_bos": True, "prompts_begin_with_bos": True, "seqpos_slice": [1, None]}
    shown = " ".join(model_card(with_metadata(facts_of(suite), **began)).split())
    assert "prompts began with a BOS token" in shown
    assert "outside of `seqpos_slice`, [1, None], were left out" in shown
    older = with_metadata(facts(), prepend_bos=True)
    assert "prompts of text began with a BOS token" in " ".join(model_card(older).split())


def test_a_model_that_is_not_on_the_hub_is_a_path_to_fill_in() -> None:
    local = facts(hook="gpt_neox.layers.{layer}", base_model=None)
    for loader in ("import load_model", "SAETransformerBridge"):
        shown = program(model_card(local), loader)
        assert '"path/to/pythia-160m")  # it is not on the Hub' in shown


def test_a_local_model_does_not_pass_for_one_that_transformer_lens_knows_by_its_name() -> None:
    tuned = facts(manifest={"model_name": "pythia-160m"}, base_model="me/pythia-160m-tuned")
    assert tuned.transformer_lens_model is None
    assert facts(base_model=None).transformer_lens_model is None
    other_id = facts(manifest={"model_name": "gpt2-small"}, base_model="openai-community/gpt2")
    assert other_id.transformer_lens_model == "gpt2-small"


def test_saebench_gets_names_where_the_files_say_all_it_needs_and_saes_elsewhere() -> None:
    pair = 'saes = [("me/my-suite", f"blocks.{layer}.hook_resid_post") for layer in range(12)]'
    assert pair in program(model_card(facts()), "multiple_evals")
    shown = program(model_card(facts(hook="gpt_neox.layers.{layer}")), "multiple_evals")
    assert pair not in shown
    assert 'sae.cfg.metadata.hook_name = f"blocks.{layer}.hook_resid_post"' in shown
    assert 'sae.cfg.metadata.model_name = "pythia-160m"' in shown


def test_a_branch_is_downloaded_where_saelens_would_read_main(
    suite: SAESuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def snapshot_download(repo_id: str, **wanted: Any) -> str:
        asked.append((repo_id, wanted))
        return str(suite.path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    card = model_card(facts_of(suite, revision="v2"))
    assert "SAE.from_pretrained(" not in card
    names: dict[str, Any] = {}
    exec(programs(card)[0], names)
    hook_name = "blocks.2.hook_resid_post"
    assert asked == [(REPO, {"revision": "v2", "allow_patterns": [f"{hook_name}/*"]})]
    assert names["sae"].cfg.metadata.hook_name == hook_name
    assert ', revision="v2")' in program(card, "SAESuite")
    assert "--revision v2" in card
    assert model_card(facts_of(suite, revision="main")) == model_card(facts_of(suite))


# --- names that could break it ---

HOSTILE = 'a|b`c``d\n---\n<!-- end sae-lens-groups -->\n# {x} "q" <b>'


# A hook's name is printable, which a suite.json is refused without.
HOSTILE_HOOK = "model.{layer}." + HOSTILE.replace("\n", " ").replace("/", "")


@pytest.mark.parametrize("hook", ["blocks.{layer}.hook_resid_post", HOSTILE_HOOK])
def test_hostile_names_break_neither_the_table_nor_the_programs_nor_the_marks(hook: str) -> None:
    bad = facts(
        "0-1",
        hook=hook,
        base_model=None,
        dataset_name=None,
        manifest={
            "model_name": HOSTILE,
            "versions": {"sae-lens-groups": HOSTILE, HOSTILE: HOSTILE},
        },
        run={"dataset_path": HOSTILE, "layer_groups": HOSTILE},
        revision=HOSTILE,
    )
    card = model_card(replace(bad, scores=scores(bad)))
    assert len({len(row) for row in table_rows(card)}) == 1
    for text in programs(card):
        compile(text, "card", "exec")
    assert len(programs(card)) >= 3
    assert sorted(ModelCard(card).data.to_dict()) == ["library_name", "tags"]
    assert [line for line in card.splitlines() if line.startswith("<!--")][1:] == [END]
    assert card.splitlines()[-1] == END
    assert model_card(replace(bad, scores=scores(bad)), card) == card


def test_a_hook_name_comes_out_of_the_program_as_it_went_in() -> None:
    bad = facts("0-1", hook=HOSTILE_HOOK)
    asked: list[str] = []
    sae = SimpleNamespace(from_pretrained=lambda _, hook_name: asked.append(hook_name))
    text = programs(model_card(bad))[0].replace("from sae_lens import SAE", "")
    exec(text, {"SAE": sae})
    assert asked == [HOSTILE_HOOK.replace("{layer}", "1")]


# --- a card that is there already ---

CARD = model_card(facts())


def test_a_card_that_it_wrote_comes_back_unchanged() -> None:
    assert model_card(facts(), CARD) == CARD
    assert model_card(facts(), "") == CARD


def test_new_facts_replace_the_old_part_alone() -> None:
    edited = CARD.replace("---\n\n<!-- begin", "---\nMy words.\n\n<!-- begin") + "\n## Thanks\nAll."
    changed = model_card(facts("0-10,11"), edited)
    assert changed.count("**2 SAEs were trained**") == 1
    assert "**4 SAEs were trained**" not in changed
    assert "---\nMy words.\n\n<!-- begin" in changed
    assert changed.endswith(f"{END}\n\n## Thanks\nAll.")


def test_a_hand_written_card_keeps_its_text_and_gets_ours_below_it() -> None:
    card = model_card(facts(), "# Mine\r\n\r\nSome *words*.")
    front, _, rest = card.partition("\n---\n")
    assert front.startswith("---\nlibrary_name: saelens\n")
    assert rest.startswith("# Mine\r\n\r\nSome *words*.\n\n<!-- begin sae-lens-groups")
    assert model_card(facts(), card) == card


def test_our_part_stays_where_it_was_moved_to() -> None:
    front, _, part = CARD.partition("\n\n<!-- begin")
    moved = f"{front}\n<!-- begin{part}\n# Below\n"
    assert model_card(facts(), moved) == moved


def test_front_matter_that_somebody_wrote_stays_to_the_letter() -> None:
    existing = (
        "---\n"
        "# who may use it\n"
        "license: cc-by-4.0  # as the lab wants\n"
        "language: no\n"
        "tags: [code, sae]\n"
        "datasets:\n- me/text\n"
        "# the end\n"
        "---\nMine.\n"
    )
    card = model_card(facts(), existing)
    assert card.startswith(
        "---\n"
        "# who may use it\n"
        "license: cc-by-4.0  # as the lab wants\n"
        "language: no\n"
        "tags:\n- code\n- sae\n- saelens\n- sparse-autoencoder\n- mechanistic-interpretability\n"
        "- sae-lens-groups\n"
        "datasets:\n- me/text\n- monology/pile-uncopyrighted\n"
        "# the end\n"
        "library_name: saelens\n"
        "base_model: EleutherAI/pythia-160m\n"
        "---\nMine.\n"
    )
    assert model_card(facts(), card) == card


def test_a_license_that_is_given_takes_the_place_of_another() -> None:
    assert "\nlicense: mit\n" in model_card(facts(license="mit"), "---\nlicense: other\n---\n")
    assert "\nlicense: other\n" in model_card(facts(), "---\nlicense: other\n---\n")


def test_a_card_with_windows_line_ends_is_read_and_a_second_publish_changes_nothing() -> None:
    part = CARD.partition("---\n\n")[2].replace(END, f"{END}\r")
    existing = f"---\r\nlicense: mit\r\n---\r\nMine.\r\n{part}"
    card = model_card(facts(), existing)
    assert card.startswith("---\r\nlicense: mit\r\nlibrary_name: saelens\r\ntags:\r\n- saelens\r\n")
    assert "---\r\nMine.\r\n<!-- begin sae-lens-groups" in card
    assert card.count("## The groups") == 1
    assert model_card(facts(), card) == card


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda card: card.replace("tags:", "tags: ["), "cannot be read as YAML"),
        (lambda card: card.replace("library_name: saelens", "just words", 1), "cannot be read"),
        (lambda card: card.replace("tags:", "library_name: x\ntags:"), "has library_name twice"),
        (lambda card: re.sub(r"(?s)---\n.*?\n---", "---\nwords\n---", card), "has no keys"),
        (lambda card: card.replace("\n---\n", "\n"), "no front matter that the Hub can read"),
        (lambda card: card.replace("tags:", "license: 2024-99-99\ntags:"), "cannot be read"),
        (lambda _: "---\n{language: en}\n---\n", "one key per line"),
        (lambda _: "---\ntags: {a: b}\n---\n", "tags in the card's front matter is not a list"),
        (lambda _: "---\ntags: &a [x]\nmore: *a\n---\n", "without anchors and braces"),
        (lambda card: card.replace(END, ""), "has 1 begin and 0 end marks"),
        (lambda card: card + END, "has 1 begin and 2 end marks"),
        (lambda card: card + card.partition("---\n\n")[2], "has 2 begin and 2 end marks"),
        (lambda card: re.sub("<!-- begin.*-->", "", card), "has 0 begin and 1 end marks"),
    ],
)
def test_a_damaged_card_is_refused_with_what_to_do(damage: Any, message: str) -> None:
    with pytest.raises(PublishError, match=message) as caught:
        model_card(facts(), damage(CARD))
    assert re.search("publish again|remove the first line", str(caught.value))


_KEYS = st.text("abcdefghijklmnop_", min_size=1, max_size=8).map(lambda name: f"x_{name}")
_VALUES = st.text(max_size=20) | st.booleans() | st.integers() | st.lists(st.text(max_size=5))
_PROSE = st.text(max_size=60).filter(lambda text: "sae-lens-groups" not in text)


@given(
    keys=st.dictionaries(_KEYS, _VALUES, max_size=4),
    tags=st.lists(st.sampled_from(["sae", "code", "x: y", "no"]), unique=True),
    above=_PROSE,
    below=_PROSE,
)
def test_what_is_written_by_hand_survives_and_a_second_publish_changes_nothing(
    keys: dict[str, Any], tags: list[str], above: str, below: str
) -> None:
    front = yaml.safe_dump({**keys, "tags": tags, "license": "other"}, sort_keys=False)
    inside = CARD.partition("\n---\n\n")[2].removesuffix("\n")
    existing = f"---\n{front}---\n{above}\n{inside}\n{below}"
    card = model_card(facts("0-10,11"), existing)
    data = yaml.safe_load(card.partition("---\n")[2].partition("\n---\n")[0])
    assert {name: data[name] for name in keys} == keys
    assert data["license"] == "other"
    assert data["tags"][: len(tags)] == tags
    assert len(data["tags"]) == len(set(data["tags"]))
    assert f"\n---\n{above}\n<!-- begin sae-lens-groups" in card
    assert card.endswith(f"\n{END}\n{below}")
    assert model_card(facts("0-10,11"), card) == card
    assert model_card(facts(), card) == model_card(facts(), existing)

"""Which tests depend on the version of SAELens, and are run with the oldest one, too.

Those that train, load or evaluate SAEs with SAELens, unless another one already shows that it does
there what it does in the newest: everything else of theirs is ours, and is the same with either.
"""

import re
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import pytest

from .products import name_of, one_for_each_architecture

_TOUCHES_SAELENS = re.compile(
    r"\b(sae_lens|GroupSAETrainingRunner|SAESuite|cache_activations|evaluate_suite|group_config)\b"
)
SAME_WITH_ANY_SAELENS = {
    # They take a suite that a run wrote, and look at what becomes of it afterwards.
    *("test_publish", "test_report", "test_model_card", "test_public_files", "test_hub_storage"),
    # What is refused before SAELens comes to see it. Its own flags are in test_cli.
    *("test_damaged_suite", "test_fuzz", "test_fuzz_cache", "test_fuzz_command_line"),
    "test_fuzz_config",
    *("test_a_damaged_checkpoint_is_named", "test_mistakes_are_found_before_the_model_is_loaded"),
    # Numbers of ours, from activations that test_store, test_plan and test_evaluation read with it.
    *("test_distances", "test_evaluate_command", "test_plan_command"),
    *("test_trained_features_carry_the_answer", "test_outliers", "test_older_saelens_schema"),
    # Of the dataset's rows alone.
    *("test_half_used_texts_are_gone_on_with", "test_pretokenised_folders_train"),
    "test_a_run_resumes_also_near_the_end_of_the_dataset",
    # Our signals, our memory, our source code.
    *(
        "test_ctrl_c_saves_and_the_printed_flag_resumes",
        "test_a_signal_saves_a_whole_step_and_says_where",
    ),
    *("test_memory", "test_rooms", "test_contributing"),
    # What test_sweep_evaluation and test_features found, drawn, and read by others.
    *("test_sweep_page", "test_features_page", "test_other_tools"),
    # The arithmetic of maps between layers, on weights alone.
    "test_the_sae_of_an_image_of_its_source_is_the_image_of_the_source",
}
"""Files and tests."""
ONLY_THESE = {
    "test_cached_activations": {
        "test_training_from_a_cache_gives_the_weights_of_training_from_the_model",
        "test_one_command_caches_and_another_trains",
        "test_saelens_trains_from_a_layer_of_the_cache",
        "test_in_training_evals_take_nothing_from_the_cache",
        "test_a_setting_that_nobody_has_decided_on_is_compared",
    },
    "test_circuits": {"test_identities_hold_for_a_transformers_model"},
    "test_evaluation": {
        "test_every_number_is_that_of_run_evals",
        "test_every_kind_of_hook_gives_the_numbers_of_run_evals",
        "test_a_sweep_takes_one_clean_pass_and_two_per_layer",
        "test_a_model_that_cannot_be_entered_gives_the_same_numbers",
        "test_a_hooked_transformer_is_entered_at_the_layer",
        "test_a_model_in_bfloat16_gives_nearly_the_same_numbers",
        "test_a_baseline_is_read_in_all_its_forms",
        "test_the_json_has_the_form_of_saelens",
        "test_the_table_has_the_columns_of_the_contract",
        "test_firings_are_counted_on_kept_tokens_of_each_layer",
        "test_a_dataset_shorter_than_all_batches_is_used_as_far_as_it_goes",
    },
    "test_recipe": {
        "test_a_stopped_recipe_goes_on_with_the_same_command_and_ends_with_the_same_files",
    },
    "test_first_minutes": {
        "test_help_shows_without_importing_saelens",
        "test_the_help_of_train_begins_with_what_is_needed_and_has_a_line_for_each_flag",
        "test_a_dry_run_says_what_would_be_trained_and_trains_nothing",
        "test_settings_that_do_less_than_they_seem_to_are_told",
    },
    "test_hub_source": {"test_a_suite_and_its_saes_are_found_on_the_hub"},
    "test_sites": {"test_each_site_is_trained_as_alone"},
    "test_sweep_evaluation": {"test_each_suite_has_the_files_of_its_own_evaluation"},
    "test_plan": {
        "test_measured_groups_train_as_if_they_had_been_named",
        "test_a_resumed_run_keeps_the_groups_it_measured",
        "test_flops_are_counted_for_every_architecture",
    },
    "test_run_checkpoints": {
        "test_a_run_that_goes_on_makes_the_same_checkpoints",
        "test_auto_goes_on_from_the_newest_in_the_runs_own_folder",
        "test_the_newest_and_the_best_are_kept",
        "test_nan_activations_leave_a_checkpoint_from_which_the_run_would_be_the_same",
        "test_a_loss_that_is_not_finite_stops_the_run_and_names_group_layers_and_step",
        "test_the_command_line_knows_the_flags",
    },
    "test_features": {
        "test_counts_and_histograms_are_those_of_a_brute_force_pass",
        "test_the_command_writes_a_page_without_texts",
    },
    "test_package": {
        "test_saelens_file_names_are_written_out_correctly",
        "test_floor_and_newest_are_those_that_the_package_names",
    },
    "test_refit": {
        "test_aligned_layers_and_whitened_ones_too",
        "test_saelens_loads_it_and_files_say_what_it_is",
        "test_training_with_refit_tokens_ends_with_the_same",
    },
    "test_settings": {
        "test_schedules_that_fill_the_run_are_trained",
        "test_the_settings_of_a_run_on_another_device_are_used_with_device",
        "test_a_model_that_cannot_be_loaded_is_named_with_the_setting_in_one_line",
        "test_a_saelens_config_keeps_its_norm_estimate",
    },
    "test_sinks": {"test_a_start_at_a_layer_with_a_sink_is_as_good_as_without"},
    "test_steer": {
        "test_adding_puts_multiples_of_the_highest_activation_there",
        "test_hooked_transformer_is_steered_as_by_its_own_hooks",
    },
    "test_suite": {
        "test_a_suite_is_a_mapping_from_hook_name_to_plain_sae",
        "test_a_layers_cfg_is_saelens_inference_form_with_our_facts_under_one_key",
        "test_groups_are_saved_in_training_form",
        "test_a_saved_suite_loads_with_equal_outputs",
        "test_plain_saelens_loads_a_layer_where_we_cannot_be_imported",
        "test_several_layers_attach_to_a_model_at_once",
    },
    "test_sweep": {
        "test_each_setting_is_trained_as_alone",
        "test_it_goes_on_as_it_would_have",
        "test_wandb_gets_entries_of_each_setting",
    },
    "test_transfer": {
        "test_a_copy_of_an_exported_layer_leaves_outputs_as_they_are",
        "test_a_copy_of_saelens_own_checkpoint_leaves_outputs_as_they_are",
        "test_every_architecture_is_exact_for_images_of_its_source",
        "test_training_goes_on_from_the_start_that_was_given",
        "test_the_reported_scores_are_run_evals_of_the_exported_layers",
        "test_a_resumed_run_keeps_what_it_started_from",
        "test_a_suite_can_be_filled_in",
        "test_heads_can_be_transferred",
    },
    "test_transformer_lens": {"test_a_layers_files_name_the_hook_that_attaches_it"},
    "test_run_failures": {
        "test_a_resumed_run_has_the_learning_rates_of_a_whole_run_of_its_settings",
        "test_a_bad_row_is_named_in_an_evaluation_too",
        "test_other_betas_are_used",
        "test_nothing_that_wandb_raises_ends_a_run",
        "test_every_model_name_is_one_that_wandb_takes",
        "test_a_missing_wandb_key_is_said_before_the_model_loads",
        "test_a_server_that_is_away_at_the_start_is_no_reason_not_to_train",
    },
}
"""Of these files those tests in which SAELens does something: the rest is files, signals, messages
and numbers of ours."""

LONG = {
    "test_two_ranks_train_the_sae_of_one_process",
    "test_after_200_steps_sae_and_curves_are_those_of_one_process",
    "test_checkpoints_know_nothing_of_shards",
    "test_wandb_has_the_entries_of_the_whole_sae",
    "test_what_cannot_be_sharded_is_refused",
    "test_an_error_in_one_shard_is_told_by_all",
    "test_in_bfloat16_after_30_steps_the_sae_is_as_good",
    "test_shards_start_from_a_trained_sae",
    "test_shards_begin_with_the_rows_of_one_process",
}
"""With the oldest SAELens in `bash .ci/run --all` alone: three processes train for them, whose step
of an SAE in shards is tested with it in any case."""


def is_the_oldest_at_hand() -> bool:
    """Whether the SAELens that is imported is the one of floor.txt."""
    pinned = Path(__file__).with_name("floor.txt").read_text().splitlines()
    return f"sae-lens=={version('sae-lens')}" in pinned


def depending_on_saelens(items: Iterable[pytest.Item]) -> Iterable[pytest.Item]:
    """The tests of files that train, load or evaluate SAEs with SAELens, those that are long aside.

    Of a test's cases one for each architecture.
    """
    touching = {
        path
        for path in {item.path for item in items}
        if path.stem not in SAME_WITH_ANY_SAELENS and _TOUCHES_SAELENS.search(path.read_text())
    }
    found = list[pytest.Item]()
    for item in items:
        name = name_of(item)
        if item.path not in touching or name in SAME_WITH_ANY_SAELENS:
            continue
        if name in ONLY_THESE.get(item.path.stem, {name}) and not item.get_closest_marker("long"):
            found.append(item)
    return one_for_each_architecture(found)

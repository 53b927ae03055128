"""What to go on with, once a setting is chosen: commands that name its suite."""

import shlex

from sae_lens_groups import files
from sae_lens_groups.evaluate.choice.result import SettingScores
from sae_lens_groups.field_values import as_flag
from sae_lens_groups.saved import SweepSetting
from sae_lens_groups.suite import SAESuite

MORE_TOKENS = 4
"""So many times the tokens of the sweep."""


def train_flags(setting: SweepSetting, suite: SAESuite) -> list[str]:
    """The flags that train this setting alone on more tokens, but for where its files lie."""
    n_tokens = (suite.runner_cfg or {}).get("training_tokens")
    if n_tokens is None or suite.manifest.dataset_rows_read is None:
        return []  # the dataset was passed in from Python, and no command knows it
    words = [
        word
        for name, value in setting.changes.items()
        if name != "architecture"  # which the suite's runner_cfg.json says, and alone may say
        for word in as_flag(name, value)
    ]
    return [*words, "--training_tokens", str(MORE_TOKENS * n_tokens)]


def commands_of(of: SettingScores, sweep: str) -> list[tuple[str, str]]:
    """What each is for, and its text, for who is beside the sweep's folder of this name."""
    place = f"{sweep}/{of.setting.name}"
    found = [
        ("Publish it", _command("publish", place, "OWNER/NAME")),
        ("Load it", f"suite = SAESuite.load({place!r})"),
    ]
    if of.train_flags:
        config, output = f"{place}/{files.RUNNER_CFG}", f"{of.setting.name}-longer"
        words = ["--config_file", config, *of.train_flags, "--output_path", output]
        words += ["--checkpoint_path", "checkpoints"]  # the sweep's are not this run's
        found.append(
            (f"Train it alone, on {MORE_TOKENS} times the tokens", _command("train", *words))
        )
    return found


def _command(*words: str) -> str:
    return f"sae-lens-groups {shlex.join(words)}"

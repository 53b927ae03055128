"""Suites that were damaged or come from an enemy: found and named, or without any effect."""

import json
import os
import pickle
import random
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE, TrainingSAE
from safetensors.torch import load_file, save_file

from sae_lens_groups import GroupPlan, GroupSAETrainingRunner, SAESuite
from sae_lens_groups.errors import GroupSAEError, InitSourceError, PlanError, SuiteError
from sae_lens_groups.files.checksums import write_checksums
from sae_lens_groups.files.names import is_covered
from sae_lens_groups.saved.open import named_by, open_saes
from sae_lens_groups.scaling.group_scaling import whitening_of
from sae_lens_groups.scaling.layer_scaler import layer_map_of

from . import processes
from .tiny import (
    D_IN,
    D_SAE,
    group_config,
    make_model,
    make_tokens,
    parse_config,
    sae_config,
)

HOOK_NAMES = [f"blocks.{layer}.hook_resid_post" for layer in range(4)]
WEIGHTS = "sae_weights.safetensors"
FIRST, SECOND = HOOK_NAMES[:2]
GROUP = "groups/layers_0-2"
# SAELens 6.44 does not.
KNOWS_WHITENING = hasattr(TrainingSAE, "fold_activation_whitening")
Damage = Callable[[Path], object]


def trained(folder: Path, **changes: Any) -> Path:
    sae = sae_config("topk", normalize_activations=changes.pop("mode", "expected_average_only_in"))
    suite = GroupSAETrainingRunner(
        group_config("0-2,3", sae=sae, **changes),
        override_dataset=make_tokens(),
        override_model=make_model(norms=(1, 4, 16, 16)),
    ).run()
    return suite.save(folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An aligned and whitened suite, so that every kind of file is there."""
    mode = "covariance_whitening" if KNOWS_WHITENING else "expected_average_only_in"
    folder = tmp_path_factory.mktemp("whole") / "suite"
    trained(folder, mode=mode, layer_alignment="orthogonal", plan_tokens=400)
    for name in ("evaluation.csv", "report.html", "README.md", "evaluation/all_eval_results.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps([name, 1, 2, 3]))
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "suite"))


def contents(folder: Path) -> dict[str, Any]:
    """Everything that a suite gives, in a form that tells any difference of a bit."""
    suite = SAESuite.load(folder)
    found: dict[str, Any] = {
        "manifest": suite.manifest.to_json(),
        "settings": suite.runner_cfg,
        "curves": suite.training_curves,
    }
    for name, sae in suite.items():
        found[name] = facts_of(sae)
    for layer in suite.layers:
        found[f"sparsity {layer}"] = bytes_of(suite.log_sparsity(layer))
        scaler = suite.scaler(layer)
        parts = (whitening_of(scaler), layer_map_of(scaler))
        maps = [vars(part) for part in parts if part is not None]
        tensors = [{key: bytes_of(tensor) for key, tensor in part.items()} for part in maps]
        found[f"scaler {layer}"] = (scaler.scaling_factor, tensors)
    for group in suite.manifest.groups:
        found[group.name] = facts_of(suite.group(group))
    return found


def facts_of(sae: SAE[Any]) -> tuple[dict[str, Any], dict[str, bytes]]:
    return sae.cfg.to_dict(), {key: bytes_of(of) for key, of in sae.state_dict().items()}


def bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().numpy().tobytes()


# --- generated damages ---


def files_of(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def cut(name: str, rng: random.Random) -> Damage:
    part = rng.random()

    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(part * len(content))])

    return damage


def flip(name: str, rng: random.Random) -> Damage:
    place, bit = rng.random(), rng.randrange(8)

    def damage(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[int(place * len(content))] ^= 1 << bit
        (folder / name).write_bytes(content)

    return damage


def empty(name: str, _: random.Random) -> Damage:
    return lambda folder: (folder / name).write_bytes(b"")


def lose(name: str, _: random.Random) -> Damage:
    return lambda folder: (folder / name).unlink()


def become_a_folder(name: str, _: random.Random) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return damage


def become_another(name: str, rng: random.Random) -> Damage:
    """A file of the same kind from elsewhere in the suite, or of random bytes."""
    noise = rng.randbytes(500)

    def damage(folder: Path) -> None:
        others = [path for path in folder.rglob(Path(name).name) if path != folder / name]
        other = sorted(others)[0].read_bytes() if others else noise
        (folder / name).write_bytes(other if other != (folder / name).read_bytes() else noise)

    return damage


def say_otherwise(name: str, rng: random.Random) -> Damage:
    """One field of a JSON file, somewhere inside, with another value."""
    seed = rng.random()

    def damage(folder: Path) -> object:
        if not name.endswith(".json"):
            return flip(name, random.Random(seed))(folder)
        content = json.loads((folder / name).read_text())
        change_a_field(content, random.Random(seed))
        return (folder / name).write_text(json.dumps(content))

    return damage


def change_a_field(content: Any, rng: random.Random) -> None:
    while True:
        keys: list[Any] = list(content if isinstance(content, dict) else range(len(content)))
        key = rng.choice(keys)
        if not isinstance(content[key], dict | list) or not content[key]:
            break
        content = content[key]
    others = [1, -3, 0.5, "other", None, [], {}, True, 10**12, "../x"]
    content[key] = rng.choice([other for other in others if other != content[key]])


DAMAGES = [cut, flip, empty, lose, become_a_folder, become_another, say_otherwise]


def message_of(folder: Path, before: dict[str, Any] | None = None) -> str | None:
    """What a suite is refused with; None where it is not, and nothing has changed in it."""
    try:
        after = contents(folder)
    except GroupSAEError as error:
        return str(error)
    assert before is None or after == before
    return None


def test_generated_damages_are_found_and_named_or_do_no_harm(whole: Path, tmp_path: Path) -> None:
    """Every kind of damage to every file of a suite."""
    before, rng = contents(whole), random.Random(7)
    harmless: set[str] = set()
    cases = [(kind, name, kind(name, rng)) for name in files_of(whole) for kind in DAMAGES]
    for kind, name, damage in cases:
        folder = Path(shutil.copytree(whole, tmp_path / "suite"))
        damage(folder)
        found = message_of(folder, before)
        shutil.rmtree(folder)
        if found is None:
            harmless.add(name)
        elif name != "checksums.json":  # damaged, it may accuse any file
            assert name in found, (kind.__name__, name, found)
            assert "copy or download the suite again" in found
    assert len(cases) >= 150
    assert harmless <= {name for name in files_of(whole) if not is_covered(name)}


@pytest.mark.slow
def test_without_checksums_damages_are_found_or_loaded_as_sound_suites(
    whole: Path, tmp_path: Path
) -> None:
    """Older suites: what cannot be noticed is at least a sound suite, and nothing else is raised."""
    rng = random.Random(11)
    n_found = 0
    cases = [
        (name, kind(name, rng))
        for name in files_of(whole)
        for kind in DAMAGES
        if name != "checksums.json"
    ]
    for name, damage in cases:
        folder = Path(shutil.copytree(whole, tmp_path / "suite"))
        (folder / "checksums.json").unlink()
        damage(folder)
        found = message_of(folder)
        shutil.rmtree(folder)
        if found is not None:
            n_found += 1
            named = (Path(name).parts[0], "suite.json", "this suite does not hold")
            assert any(part in found for part in named), (name, found)
    assert n_found > 100


@pytest.mark.parametrize("inside", ["", "groups", "groups/layers_0-2", SECOND])
def test_a_lost_folder_is_named(folder: Path, inside: str) -> None:
    shutil.rmtree(folder / inside)
    with pytest.raises(SuiteError, match=inside or "does not exist"):
        contents(folder)


def test_swapped_layers_are_found_with_and_without_checksums(folder: Path) -> None:
    (folder / FIRST).rename(folder / "x")
    (folder / SECOND).rename(folder / FIRST)
    (folder / "x").rename(folder / SECOND)
    with pytest.raises(SuiteError, match=f"{FIRST}/.* was altered"):
        SAESuite.load(folder)[FIRST]
    (folder / "checksums.json").unlink()
    with pytest.raises(
        SuiteError, match=f"{FIRST}/cfg.json says that its SAE was made for {SECOND}"
    ):
        SAESuite.load(folder)[FIRST]


def test_a_foreign_file_that_would_be_read_is_refused(folder: Path) -> None:
    middle = f"{GROUP}/layer_1/alignment.safetensors"  # the middle layer is not aligned
    shutil.copy(folder / GROUP / "layer_0/alignment.safetensors", folder / middle)
    with pytest.raises(SuiteError, match=f"{middle} is there, and that layer is not aligned"):
        SAESuite.load(folder).scaler(1)
    (folder / "checksums.json").unlink()
    with pytest.raises(SuiteError, match=f"{middle} is there, and that layer is not aligned"):
        SAESuite.load(folder).scaler(1)
    assert SAESuite.load(folder).scaler(0) is not None


def test_a_file_that_was_not_there_is_refused(folder: Path) -> None:
    rewrite(folder, "checksums.json", lambda content: content["files"].pop("training_curves.csv"))
    with pytest.raises(SuiteError, match=r"training_curves\.csv is not in checksums\.json"):
        SAESuite.load(folder)


def test_other_peoples_files_do_no_harm(folder: Path, whole: Path) -> None:
    for name in ("notes.txt", f"{FIRST}/notes.txt", ".DS_Store", "evaluation/more.csv"):
        (folder / name).write_text("mine")
    assert contents(folder) == contents(whole)


@pytest.mark.parametrize(
    "name", ["README.md", "evaluation.csv", "report.html", "evaluation/all_eval_results.json"]
)
def test_what_is_rewritten_is_never_damaged(folder: Path, whole: Path, name: str) -> None:
    (folder / name).write_text("something new")
    assert contents(folder) == contents(whole)
    copy = SAESuite.load(folder).save(folder.with_name("copy"))
    assert contents(copy) == contents(whole)


def test_one_layer_is_checked_by_itself_and_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sae_lens_groups.files.checksums import Checksums

    read: list[str] = []
    damage = Checksums.damage

    def noted(self: Checksums, names: Iterable[str] | None = None) -> str | None:
        names = list(self.names if names is None else names)
        read.extend(names)
        return damage(self, names)

    monkeypatch.setattr(Checksums, "damage", noted)
    suite = SAESuite.load(folder)
    facts = ["suite.json", "runner_cfg.json", "training_curves.csv"]
    assert sorted(read) == sorted(facts)
    for _ in range(2):
        assert suite[FIRST] is not None
        assert suite.log_sparsity(0) is not None
        assert suite.group(suite.manifest.groups[0]) is not None
    of_layer = [f"{FIRST}/{name}" for name in ("cfg.json", WEIGHTS, "sparsity.safetensors")]
    assert sorted(read) == sorted([*facts, *of_layer, f"{GROUP}/cfg.json", f"{GROUP}/{WEIGHTS}"])


def first_sae(init_from: str) -> SAE[Any]:
    with named_by("init_from", InitSourceError):
        source = open_saes(init_from)
        return source.group(source.manifest.groups[0])


def test_a_damaged_source_is_refused(folder: Path) -> None:
    for place, name in (
        (folder, f"{GROUP}/{WEIGHTS}"),
        (folder / GROUP, f"{GROUP}/{WEIGHTS}"),
        (folder / FIRST, f"{FIRST}/{WEIGHTS}"),
    ):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-4] + b"\0\0\0\1")
        with pytest.raises(InitSourceError, match=f"{name} was altered after it was written"):
            first_sae(str(place))
        (folder / name).write_bytes(content)


def test_settings_of_a_suite_that_were_altered_are_not_trained_with(folder: Path) -> None:
    settings = folder / "runner_cfg.json"
    settings.write_text(settings.read_text().replace('"lr": 0.003', '"lr": 0.007'))
    args = ["--config_file", str(settings), "--layer_groups", "0-3"]
    with pytest.raises(GroupSAEError, match=r"runner_cfg\.json was altered .* edit a copy"):
        parse_config(args)
    shutil.copy(settings, folder.parent / "mine.json")
    args[1] = str(folder.parent / "mine.json")
    assert parse_config(args).lr == 0.007


# --- enemies, who write checksums of their own ---


def rewrite(folder: Path, name: str, change: Callable[[Any], object]) -> None:
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


def rename_hooks(template: str) -> Damage:
    """Makes every name in suite.json one of this template."""

    def damage(folder: Path) -> None:
        text = (folder / "suite.json").read_text()
        before, after = template.split("{layer}")
        for layer in range(4):
            text = text.replace(
                json.dumps(HOOK_NAMES[layer]), json.dumps(f"{before}{layer}{after}")
            )
        text = text.replace(json.dumps("blocks.{layer}.hook_resid_post"), json.dumps(template))
        (folder / "suite.json").write_text(text)

    return damage


def set_in(name: str, **values: Any) -> Damage:
    return lambda folder: rewrite(folder, name, lambda content: content.update(values))


def set_metadata(**values: Any) -> Damage:
    return lambda folder: rewrite(
        folder, f"{FIRST}/cfg.json", lambda content: content["metadata"].update(values)
    )


def set_tensors(name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / name)
        change(tensors)
        save_file(tensors, folder / name)

    return damage


def header(claimed: dict[str, Any]) -> Damage:
    """Weights of a few bytes whose header claims more."""

    def damage(folder: Path) -> None:
        text = json.dumps(claimed).encode()
        (folder / FIRST / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + bytes(64))

    return damage


def weights(text: bytes) -> Damage:
    return lambda folder: (folder / FIRST / WEIGHTS).write_bytes(text)


def link_out(name: str, target: str = "/etc/passwd") -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(target)

    return damage


def nan(tensors: dict[str, torch.Tensor], name: str = "b_dec") -> None:
    tensors[name].view(-1)[3] = float("nan")


HUGE = {"dtype": "F32", "shape": [10**9, 10**3], "data_offsets": [0, 4 * 10**12]}
OVERFLOWING = {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 64]}
SCALER = f"{GROUP}/layer_0/activation_scaler.json"
ATTACKS: dict[str, tuple[str, Damage]] = {
    "a template up": ("suite.json", rename_hooks("../{layer}")),
    "a template to the root": ("suite.json", rename_hooks("/tmp/{layer}")),
    "a template with a backslash": ("suite.json", rename_hooks("..\\{layer}")),
    "a template with a drive": ("suite.json", rename_hooks("C:{layer}")),
    "a template with a zero": ("suite.json", rename_hooks("x\0{layer}")),
    "a template beyond all names": ("suite.json", rename_hooks("x" * 300 + ".{layer}")),
    "a group's name": (
        "suite.json",
        lambda folder: rewrite(
            folder, "suite.json", lambda of: of["groups"][0].update(name="../../elsewhere")
        ),
    ),
    "a layer's group": (
        "suite.json",
        lambda folder: rewrite(
            folder, "suite.json", lambda of: of["layers"][FIRST].update(group="/etc")
        ),
    ),
    "a layer that is true": (
        "suite.json",
        lambda folder: rewrite(
            folder, "suite.json", lambda of: of["groups"][0].update(layers=[True])
        ),
    ),
    "a scaling of NaN": (
        "suite.json",
        lambda folder: rewrite(
            folder,
            "suite.json",
            lambda of: of["layers"][FIRST].update(scaling_factor=float("nan")),
        ),
    ),
    "a model that is a list": ("suite.json", set_in("suite.json", model_name=["x"])),
    "nested JSON": (
        "suite.json",
        lambda folder: (folder / "suite.json").write_text("[" * 100_000),
    ),
    "a manifest that is a list": (
        "suite.json",
        lambda folder: (folder / "suite.json").write_text("[]"),
    ),
    "d_sae of 10^12": ("cfg.json", set_in(f"{FIRST}/cfg.json", d_sae=10**12)),
    "d_in of 10^9": ("cfg.json", set_in(f"{FIRST}/cfg.json", d_in=10**9)),
    "d_sae of 10^400": ("cfg.json", set_in(f"{FIRST}/cfg.json", d_sae=10**400)),
    "d_sae of -1": ("cfg.json", set_in(f"{FIRST}/cfg.json", d_sae=-1)),
    "d_sae that is text": ("cfg.json", set_in(f"{FIRST}/cfg.json", d_sae="48")),
    "k beyond d_sae": ("cfg.json", set_in(f"{FIRST}/cfg.json", k=10**12)),
    "k that is text": ("cfg.json", set_in(f"{FIRST}/cfg.json", k="all")),
    "a dtype that is none": ("cfg.json", set_in(f"{FIRST}/cfg.json", dtype="int8")),
    "an unknown architecture": ("cfg.json", set_in(f"{FIRST}/cfg.json", architecture="os.system")),
    "an architecture that is a list": ("cfg.json", set_in(f"{FIRST}/cfg.json", architecture=[])),
    "a training form": (
        "cfg.json",
        lambda folder: shutil.copy(folder / GROUP / "cfg.json", folder / FIRST / "cfg.json"),
    ),
    "another layer's hook": ("cfg.json", set_metadata(hook_name=SECOND)),
    "a hook that is a path": ("cfg.json", set_metadata(hook_name="../../x.0.y")),
    "metadata that is text": ("cfg.json", set_in(f"{FIRST}/cfg.json", metadata="x")),
    "a context that is text": ("cfg.json", set_metadata(context_size="x")),
    "settings that are a list": ("cfg.json", set_metadata(model_from_pretrained_kwargs=[1])),
    "terabytes": (WEIGHTS, header({"W_dec": HUGE})),
    "shapes that overflow": (WEIGHTS, header({"W_dec": OVERFLOWING})),
    "a header of exabytes": (WEIGHTS, weights((2**62).to_bytes(8, "little") + b"{}")),
    "a pickle": (WEIGHTS, weights(pickle.dumps({"W_dec": [1.0]}))),
    "no tensors": (WEIGHTS, header({})),
    "a missing tensor": (WEIGHTS, set_tensors(f"{FIRST}/{WEIGHTS}", lambda of: of.pop("b_enc"))),
    "a tensor too many": (
        WEIGHTS,
        set_tensors(f"{FIRST}/{WEIGHTS}", lambda of: of.update(more=torch.zeros(3))),
    ),
    "a tensor of another shape": (
        WEIGHTS,
        set_tensors(f"{FIRST}/{WEIGHTS}", lambda of: of.update(b_dec=torch.zeros(D_IN + 1))),
    ),
    "a matrix on its side": (
        WEIGHTS,
        set_tensors(f"{FIRST}/{WEIGHTS}", lambda of: of.update(W_dec=torch.zeros(D_IN, D_SAE))),
    ),
    "whole numbers": (
        WEIGHTS,
        set_tensors(f"{FIRST}/{WEIGHTS}", lambda of: of.update(b_dec=torch.zeros(D_IN).long())),
    ),
    "NaN": (WEIGHTS, set_tensors(f"{FIRST}/{WEIGHTS}", nan)),
    "infinity": (
        WEIGHTS,
        set_tensors(f"{FIRST}/{WEIGHTS}", lambda of: of["W_dec"][0].fill_(float("inf"))),
    ),
    "NaN in a group": (f"{GROUP}/{WEIGHTS}", set_tensors(f"{GROUP}/{WEIGHTS}", nan)),
    "NaN in sparsity": (
        "sparsity.safetensors",
        set_tensors(f"{FIRST}/sparsity.safetensors", lambda of: nan(of, "sparsity")),
    ),
    "another's sparsity": (
        "sparsity.safetensors",
        set_tensors(f"{FIRST}/sparsity.safetensors", lambda of: of.update(sparsity=torch.zeros(7))),
    ),
    "no sparsity in it": (
        "sparsity.safetensors",
        set_tensors(
            f"{FIRST}/sparsity.safetensors", lambda of: of.update(other=of.pop("sparsity"))
        ),
    ),
    "a scaling of zero": (SCALER, set_in(SCALER, scaling_factor=0)),
    "a scaling of another layer": (SCALER, set_in(SCALER, scaling_factor=2.5)),
    "a scaling that is text": (SCALER, set_in(SCALER, scaling_factor="1")),
    "a lost whitening": (
        "activation_whitening.safetensors",
        lambda folder: (folder / GROUP / "layer_0/activation_whitening.safetensors").unlink(),
    ),
    "NaN in a whitening": (
        "activation_whitening.safetensors",
        set_tensors(
            f"{GROUP}/layer_0/activation_whitening.safetensors", lambda of: nan(of, "matrix")
        ),
    ),
    "a lost alignment": (
        "alignment.safetensors",
        lambda folder: (folder / GROUP / "layer_0/alignment.safetensors").unlink(),
    ),
    "an alignment of another width": (
        "alignment.safetensors",
        set_tensors(
            f"{GROUP}/layer_0/alignment.safetensors",
            lambda of: of.update(offset_D=torch.zeros(3, dtype=torch.float64)),
        ),
    ),
    "a manifest elsewhere": ("suite.json", link_out("suite.json")),
    "settings elsewhere": ("runner_cfg.json", link_out("runner_cfg.json")),
    "curves elsewhere": ("training_curves.csv", link_out("training_curves.csv")),
    "an SAE's settings elsewhere": (f"{FIRST}/cfg.json", link_out(f"{FIRST}/cfg.json")),
    "weights that are a device": (
        f"{FIRST}/{WEIGHTS}",
        link_out(f"{FIRST}/{WEIGHTS}", "/dev/zero"),
    ),
    "a link in a circle": (f"{FIRST}/cfg.json", link_out(f"{FIRST}/cfg.json", "cfg.json")),
    "settings that are a list of runs": (
        "runner_cfg.json",
        lambda folder: (folder / "runner_cfg.json").write_text("[1]"),
    ),
    "curves of nothing": (
        "training_curves.csv",
        lambda folder: (folder / "training_curves.csv").write_text("training_tokens\nx\n"),
    ),
}


@pytest.mark.parametrize("has_checksums", [True, False])
@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_refused_and_the_file_named(
    folder: Path, attack: str, has_checksums: bool
) -> None:
    if "whitening" in attack and not KNOWS_WHITENING:
        pytest.skip("SAELens has no whitening")
    named, damage = ATTACKS[attack]
    damage(folder)
    (folder / "checksums.json").unlink()
    if has_checksums:
        write_checksums(folder, is_covered)
    with pytest.raises(SuiteError) as caught:
        contents(folder)
    assert named in str(caught.value)
    assert "; " in str(caught.value)  # and what to do


def test_checksums_that_lead_out_are_refused(folder: Path) -> None:
    def name_outside(content: Any) -> None:
        content["files"]["../../etc/passwd"] = {"size": 1, "sha256": "0"}

    rewrite(folder, "checksums.json", name_outside)
    with pytest.raises(SuiteError, match="names a file outside of the folder"):
        SAESuite.load(folder)


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"format_version": 1, "files": {"a": {"size": Infinity, "sha256": ""}}}'],
)
def test_checksums_of_nonsense_are_refused(folder: Path, text: str) -> None:
    (folder / "checksums.json").write_text(text)
    with pytest.raises(SuiteError, match=r"checksums\.json is damaged"):
        SAESuite.load(folder)


def test_checksums_of_a_newer_format_ask_for_an_upgrade(folder: Path) -> None:
    rewrite(folder, "checksums.json", lambda content: content.update(format_version=2))
    with pytest.raises(SuiteError, match=r"format_version is 2.*upgrade sae-lens-groups"):
        SAESuite.load(folder)


_SMALL_MEMORY = """
import resource, sys, warnings
warnings.simplefilter("ignore")
from sae_lens_groups import SAESuite
from sae_lens_groups.errors import SuiteError
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 300 * 2**20,) * 2)
for folder in sys.argv[1:]:
    try:
        next(iter(SAESuite.load(folder).values()))
    except SuiteError as error:
        print("refused")
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory of Linux")
def test_absurd_sizes_are_refused_before_memory_is_taken(whole: Path, tmp_path: Path) -> None:
    """In 300 MB, with files that are as long as they say, though nothing is in them."""
    folders = []
    for attack in ("d_sae of 10^12", "terabytes", "a header of exabytes"):
        folders.append(shutil.copytree(whole, tmp_path / attack.replace(" ", "_")))
        ATTACKS[attack][1](folders[-1])
    folders.append(shutil.copytree(whole, tmp_path / "sparse"))
    ATTACKS["terabytes"][1](folders[-1])
    with (folders[-1] / FIRST / WEIGHTS).open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        file.truncate(8 + length + 4 * 10**12)
    for folder in folders:
        (folder / "checksums.json").unlink()
    done = processes.run("-c", _SMALL_MEMORY, *map(str, folders))
    assert done.stdout.splitlines() == ["refused"] * len(folders), done.stderr


class _Unpickled:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.mark),))


def test_nothing_is_unpickled(folder: Path, whole: Path, tmp_path: Path) -> None:
    mark = tmp_path / "unpickled"
    poison = pickle.dumps(_Unpickled(mark))
    pickle.loads(poison)
    assert mark.exists()  # it works
    mark.rmdir()
    (folder / "checksums.json").unlink()
    names = ["trainer_state.pt", "sae.pt", "sparsity.pt", "pytorch_model.bin", "cfg.pkl"]
    for name in names:
        for inside in ("", FIRST, GROUP):
            (folder / inside / name).write_bytes(poison)
    assert contents(folder) == contents(whole)
    for name in [name for name in files_of(folder) if Path(name).name not in names]:
        shutil.rmtree(folder)
        shutil.copytree(whole, folder)
        (folder / "checksums.json").unlink(missing_ok=True)
        if (folder / name).exists():
            (folder / name).write_bytes(poison)
        try:
            contents(folder)
        except SuiteError:
            pass
        else:
            assert not is_covered(name)
    assert not mark.exists()


# --- links ---


def test_weights_may_lie_on_another_disk(folder: Path, whole: Path, tmp_path: Path) -> None:
    for name in HOOK_NAMES:
        (folder / name / WEIGHTS).rename(tmp_path / name)
        (folder / name / WEIGHTS).symlink_to(tmp_path / name)
    assert contents(folder) == contents(whole)


def test_a_snapshot_of_the_hubs_cache_is_a_suite(whole: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--owner--suite"
    snapshot = repository / "snapshots" / "0123"
    (repository / "blobs").mkdir(parents=True)
    for n, name in enumerate(files_of(whole)):
        shutil.copy(whole / name, repository / "blobs" / str(n))
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(
            os.path.relpath(repository / "blobs" / str(n), (snapshot / name).parent)
        )
    assert contents(snapshot) == contents(whole)
    assert list(SAESuite.load(snapshot / FIRST)) == [FIRST]
    weights = (snapshot / FIRST / WEIGHTS).resolve()
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + b"x")
    again = re.escape(f"delete {str(repository)!r}, and download it again")
    with pytest.raises(SuiteError, match=f"{FIRST}/{WEIGHTS} was altered .*; {again}"):
        SAESuite.load(snapshot)[FIRST]
    weights.write_bytes(content)
    (snapshot / "checksums.json").unlink()
    assert contents(snapshot) == contents(whole)
    assert list(SAESuite.load(snapshot / FIRST)) == [FIRST]


def test_a_copy_takes_nothing_along_from_outside(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    for name in ("evaluation.csv", "report.html", "evaluation/more.csv"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(tmp_path / "secret")
    (folder / "evaluation" / "inside").symlink_to(tmp_path)
    copy = SAESuite.load(folder).save(tmp_path / "copy")
    assert not any("secret" in path.read_text() for path in texts_in(copy))


def texts_in(folder: Path) -> Iterator[Path]:
    return (folder / name for name in files_of(folder) if not name.endswith(".safetensors"))


# --- formats ---


def test_a_suite_of_an_older_version_loads(folder: Path, whole: Path) -> None:
    (folder / "checksums.json").unlink()
    assert contents(folder) == contents(whole)


def test_a_manifest_of_the_first_version_is_read(tmp_path: Path) -> None:
    folder = trained(tmp_path / "suite")
    needed = {"format_version", "model_name", "hook_template", "groups", "layers", "versions"}
    manifest = json.loads((folder / "suite.json").read_text())
    first = {name: value for name, value in manifest.items() if name in needed}
    (folder / "suite.json").write_text(
        json.dumps({**first, "versions": {"sae-lens-groups": "0.1.0"}})
    )
    (folder / "checksums.json").unlink()
    assert len(list(SAESuite.load(folder).values())) == 4


@pytest.mark.parametrize("version", [2, 99, 10**12])
def test_a_newer_manifest_asks_for_an_upgrade(folder: Path, version: int) -> None:
    set_in("suite.json", format_version=version)(folder)
    write_checksums(folder, is_covered)
    with pytest.raises(SuiteError) as caught:
        SAESuite.load(folder)
    assert f"suite.json cannot be read: format_version is {version}," in str(caught.value)
    assert str(caught.value).endswith("reads up to 1; upgrade sae-lens-groups")


@pytest.mark.parametrize("version", [0, -1, "1", 1.0, True, None, [1]])
def test_a_format_that_nobody_wrote_is_refused(folder: Path, version: Any) -> None:
    set_in("suite.json", format_version=version)(folder)
    write_checksums(folder, is_covered)
    with pytest.raises(SuiteError, match="which no version of sae-lens-groups writes"):
        SAESuite.load(folder)


# --- plans, and checkpoints ---


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format_version": 1e999}', "[]", "\0", ""])
def test_a_plan_of_nonsense_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(PlanError, match=r"plan\.json'"):
        GroupPlan.load(tmp_path / "plan.json")


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    def run(**changes: Any) -> GroupSAETrainingRunner:
        cfg = group_config("0", checkpoint_path=str(tmp_path / "checkpoints"), **changes)
        return GroupSAETrainingRunner(
            cfg, override_dataset=make_tokens(), override_model=make_model()
        )

    run(n_checkpoints=1, save_final_checkpoint=True).run()
    (state, *_) = sorted((tmp_path / "checkpoints").rglob("trainer_state.pt"))
    mark = tmp_path / "unpickled"
    torch.save(_Unpickled(mark), state)
    with pytest.raises(GroupSAEError, match=r"damaged|altered"):
        run(resume_from_checkpoint=str(state.parents[1])).run()
    assert not mark.exists()

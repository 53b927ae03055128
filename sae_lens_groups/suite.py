"""A plain SAELens SAE for every layer, in memory or on disk."""

import contextlib
import html
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pandas as pd
import torch
from sae_lens import SAE, TrainingSAE
from sae_lens.training.activation_scaler import ActivationScaler

from sae_lens_groups import files
from sae_lens_groups.errors import SuiteError, UnknownLayerError, counted, quoted
from sae_lens_groups.layers import LayerGroup, Layers
from sae_lens_groups.saved import (
    HubRepo,
    SAESource,
    SuiteManifest,
    TrainingPoint,
    layer_table,
    open_saes,
    write_suite,
)

if TYPE_CHECKING:
    from sae_lens.config import HfDataset
    from transformer_lens import HookedRootModule

    from sae_lens_groups.evaluate import SuiteEvaluation
    from sae_lens_groups.features import SuiteFeatures
    from sae_lens_groups.publish import Published


class SAESuite(Mapping[str, SAE[Any]]):
    """A mapping from hook name to that layer's plain `sae_lens.SAE`.

    An SAE is built, or read from disk, when it is first asked for, and is the same object from
    then on. `run` of a `GroupSAETrainingRunner` and `SAESuite.load` make suites.

        suite["blocks.5.hook_resid_post"], suite[5], suite.layer(5)   a layer's SAE
        for hook_name, sae in suite.items(): ...                      all of them
        suite.groups, suite.group(5), suite.group("layers_4-7")       the SAEs that were trained
        suite.to_dataframe()                                          a row per layer, with scores
        suite.evaluate(model, dataset)                                measures them
        suite.features(model, dataset)                                shows what they fire on
    """

    manifest: SuiteManifest
    """Groups, layers and scaling: the content of `suite.json`."""
    layers: tuple[int, ...]
    """The layers that it holds SAEs for: all of the manifest's, or those that were asked for."""
    training_curves: tuple[TrainingPoint, ...]
    """How training went; empty where the suite does not hold it."""
    path: Path | None
    """The folder the suite was loaded from or saved to; None where it is not the user's own."""
    source_folder: Path | None
    """Where its files lie, in a folder of the user's or in the Hub's cache; None in memory."""
    source: SAESource
    """Where its SAEs come from."""

    def __init__(
        self,
        source: SAESource,
        layers: Layers | None = None,
        *,
        device: str = "cpu",
        path: Path | None = None,
    ) -> None:
        self.source = source
        self.manifest = source.manifest
        self.layers = tuple(source.require_layers(layers))
        self.training_curves = source.training_curves
        self.runner_cfg = source.runner_cfg
        self.path = path
        self.source_folder = source.folder
        self.device = device
        self._built: dict[int, SAE[Any]] = {}

    def __getitem__(self, layer: str | int) -> SAE[Any]:
        number = self._number(layer)
        if number not in self._built:
            self._built[number] = self.source.layer(number, self.device)
        return self._built[number]

    def __iter__(self) -> Iterator[str]:
        return map(self.manifest.hook_template.hook_name, self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __contains__(self, layer: object) -> bool:
        # Mapping's own would build the SAE to find out.
        return self.manifest.layer_of(layer) in self.layers

    def __repr__(self) -> str:
        model_name = Path(self.manifest.model_name)
        model = model_name.name if model_name.is_absolute() else model_name
        groups = ", ".join(group.name for group in self.groups)
        return f"SAESuite({counted(len(self), 'layer')} of {model}, groups {groups})"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self))}</p>{self.to_dataframe().to_html(index=False)}"

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)

    @property
    def groups(self) -> tuple[LayerGroup, ...]:
        """The groups that its layers belong to, lowest first; an SAE was trained for each."""
        return tuple(of for of in self.manifest.groups if {*of.layers} & {*self.layers})

    def layer(self, layer: str | int) -> SAE[Any]:
        """The SAE of a layer, by its number or hook name: `suite.layer(5)` is `suite[5]`."""
        return self[layer]

    def group(self, group: LayerGroup | str | int) -> TrainingSAE[Any]:
        """A group's SAE in training form, which works on scaled activations.

        Args:
            group: one of `groups`, its name such as `layers_4-7`, or one of its layers.
        """
        if not self.source.has_groups:
            raise SuiteError(
                "this suite holds plain SAEs only: they were not trained in groups, and are not in "
                "training form"
            )
        found = self.source.group(self.manifest.require_group(group), self.device)
        return cast("TrainingSAE[Any]", found)

    def scaler(self, layer: str | int) -> ActivationScaler:
        """What a layer's activations pass before the group's SAE: its scaling, and its alignment.

        `suite.layer(n)` does what `scaler.unscale(group_sae(scaler.scale(x)))` does.
        """
        number = self._number(layer)
        scaler = self.source.scaler(number) if self.source.has_scalers else None
        if scaler is None:
            raise SuiteError(
                f"this suite does not hold the scaling of layer {number}, which the suites that "
                "sae-lens-groups trains do since 0.3.0"
            )
        return scaler

    def log_sparsity(self, layer: str | int) -> torch.Tensor:
        """log10 firing frequency of each feature on this layer. Shape (d_sae,)."""
        number = self._number(layer)
        log_sparsity_F = self.source.log_sparsity(number)
        if log_sparsity_F is None:
            raise SuiteError(f"this suite does not hold how often features of layer {number} fire")
        return log_sparsity_F

    def _number(self, asked: object) -> int:
        """The layer that is asked for."""
        layer = self.manifest.layer_of(asked)
        if layer is not None and layer in self.layers:
            return layer
        names = list(self)
        what = f"layer {asked}" if type(asked) is int else quoted(asked)
        has = f"it has {counted(len(names), 'layer')}, {names[0]} to {names[-1]}"
        if layer is None and self.manifest.group_named(asked) is not None:
            has = f"that is a group's name, and suite.group({asked!r}) gives its SAE"
        raise UnknownLayerError(f"this suite has no SAE for {what}; {has}")

    def to_dataframe(self) -> pd.DataFrame:
        """A row per layer: its hook name and group, and its scores where it was evaluated.

        Raises:
            SuiteError: `evaluation.csv` is damaged.
        """
        return layer_table(self.manifest, self.layers, self.source_folder)

    def evaluate(
        self, model: "HookedRootModule", dataset: "HfDataset", **settings: Any
    ) -> "SuiteEvaluation":
        """Scores every layer: `evaluate_suite` of this suite, which says what `settings` it takes."""
        from sae_lens_groups.evaluate import evaluate_suite

        return evaluate_suite(self, model, dataset, **settings)

    def features(
        self, model: "HookedRootModule", dataset: "HfDataset", **settings: Any
    ) -> "SuiteFeatures":
        """Shows what its features fire on: `collect_features` of this suite, with its `settings`."""
        from sae_lens_groups.features import collect_features

        return collect_features(self, model, dataset, **settings)

    def require_whole(self, doing: str) -> None:
        """Refuses a suite of which only some layers were loaded."""
        if len(self.layers) < len(self.manifest.layers):
            raise SuiteError(
                f"this suite holds {len(self.layers)} of the {len(self.manifest.layers)} layers "
                f"that it was trained for, too few for {doing}; load it without layers="
            )

    def require_folder(self) -> Path:
        """Its folder, for what works on files.

        Raises:
            SuiteError: it has none, because its SAEs were trained elsewhere.
        """
        if self.path is None:
            raise SuiteError(
                f"these are SAEs that were trained elsewhere, without {files.SUITE}; make a suite of "
                "them with SAESuite.load(their_folder).save(another_folder)"
            )
        return self.path

    def save(self, path: str | Path) -> Path:
        """Writes the suite folder, complete or not at all, and returns its path.

        Raises:
            OutputFolderError: the folder already holds something.
            SuiteError: only some of its layers were loaded.
        """
        folder = files.expanded(path)
        self.save_copy(folder)
        self.path = self.source_folder = folder
        return folder

    def save_copy(self, path: Path) -> None:
        """Writes what `save` writes, and leaves the suite where it is."""
        self.require_whole("a folder")
        write_suite(self.source, path, changed=self._built, evaluated=self.source_folder)

    @classmethod
    def load(
        cls, path: str | Path, device: str = "cpu", *, layers: Layers | None = None
    ) -> "SAESuite":
        """The suite in a folder that `save` or a training run wrote.

        A folder of SAEs that SAELens or someone else trained, one per layer, becomes a suite too.

        Args:
            layers: only these, by number, hook name or group; all where it is None.

        Raises:
            SuiteError: there is no suite, or it is broken or of a newer format.
            UnknownLayerError: it lacks one of the layers.
        """
        source = open_saes(Path(path))
        return cls(source, layers, device=device, path=source.folder)

    @classmethod
    def from_pretrained(
        cls,
        repo_id: str,
        *,
        revision: str | None = None,
        layers: Layers | None = None,
        token: str | bool | None = None,
        device: str = "cpu",
    ) -> "SAESuite":
        """A suite from the Hugging Face Hub, kept in the Hub's cache on this machine.

        A repository of SAEs that SAELens or someone else trained, one per layer, becomes a suite
        too. `save` makes a folder of its own of it, for example to evaluate it.

        Args:
            layers: only these, by number, hook name or group, are downloaded, and only they are in
                the suite; all where it is None.

        Raises:
            HubError: there is no such repository or revision, or the Hub cannot be reached.
            SuiteError: the repository holds no SAELens SAEs, or broken ones.
            UnknownLayerError: it lacks one of the layers.
        """
        layers = [*layers] if isinstance(layers, Iterator) else layers  # it is read twice
        # Without a path: results do not belong in the Hub's cache.
        return cls(open_saes(HubRepo(repo_id, revision, token), layers), layers, device=device)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        create_pr: bool = False,
        base_model: str | None = None,
        dataset_name: str | None = None,
        license: str | None = None,  # noqa: A002  # as the Hub's cards call it
        allow: Collection[str] = (),
        features: bool = False,
    ) -> "Published":
        """Publishes the suite on the Hugging Face Hub, where plain SAELens loads every layer.

        What lies in the suite's folder goes up in one commit, with a model card; changes to SAEs in
        memory do not. Publishing the same again makes no commit, and an interrupted upload resumes
        where it stopped. Local paths become names, and nothing is sent while a path, a user name or
        a secret is left.

        Args:
            repo_id: `owner/name`; it is made where it does not exist.
            private: whether the repository is to be private; None leaves a new one to the account's
                settings, and another one as it is.
            revision: the branch, main where it is None. Plain SAELens reads main only.
            token: None takes that of `hf auth login`.
            create_pr: proposes the commit as a pull request; every call opens one.
            base_model: the model's id on the Hub, where it was trained on a local copy.
            dataset_name: the training text's id on the Hub, likewise.
            license: of the SAEs, as the Hub writes it, such as `mit`.
            allow: texts that look private and may be published.
            features: publishes the page of features too, with the dataset's texts that it shows.

        Raises:
            PublishError: the suite is incomplete, or something private is left in it.
            HubError: the Hub cannot be reached, or refuses.
        """
        from sae_lens_groups.publish import PublishOptions, publish_suite_folder

        options = PublishOptions(
            private=private,
            revision=revision,
            token=token,
            create_pr=create_pr,
            base_model=base_model,
            dataset_name=dataset_name,
            license=license,
            allow=allow,
            features=features,
        )
        with self.whole_folder("publishing") as folder:
            return publish_suite_folder(folder, self.manifest, repo_id, options)

    @contextlib.contextmanager
    def whole_folder(self, doing: str) -> Iterator[Path]:
        """The suite as a folder: its own, or for the block a copy of one that has none."""
        self.require_whole(doing)
        if self.source_folder is not None:
            yield self.source_folder
            return
        with tempfile.TemporaryDirectory(prefix="sae-lens-groups-") as folder:
            self.save_copy(Path(folder) / "suite")
            yield Path(folder) / "suite"

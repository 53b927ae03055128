"""What a user says about a publication."""

from collections.abc import Collection
from dataclasses import dataclass

from sae_lens_groups.errors import PublishError
from sae_lens_groups.publish.card.front_matter import is_hub_id


@dataclass(frozen=True, kw_only=True)
class PublishOptions:
    """The arguments of `SAESuite.push_to_hub`, which says what they mean.

    Raises:
        PublishError: `base_model` or `dataset_name` can be nobody's id on the Hub.
    """

    private: bool | None = None
    revision: str | None = None
    token: str | bool | None = None
    create_pr: bool = False
    base_model: str | None = None
    dataset_name: str | None = None
    license: str | None = None
    allow: Collection[str] = ()

    def __post_init__(self) -> None:
        if self.revision == "":
            raise PublishError("the revision is empty; name a branch, or leave it out for main")
        for name, value in (("base_model", self.base_model), ("dataset_name", self.dataset_name)):
            if value is not None and not is_hub_id(value):
                raise PublishError(
                    f"{name} {value!r} is no id on the Hub; give owner/name, or leave it out for "
                    "one that is not there"
                )

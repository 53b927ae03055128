"""Large files: the batch that asks what is missing, the upload of each, and its check."""

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .refusals import RefusedError
from .repository import Repository
from .tokens import require_write
from .traffic import Answer, Call, json_answer


@dataclass(frozen=True)
class Grant:
    """A leave to upload one object, for whoever knows its secret address."""

    repository: Repository
    oid: str
    size: int


def batch(repository: Repository, endpoint: str, grants: dict[str, Grant], call: Call) -> Answer:
    """Says where to send each object; of those that are there it says nothing."""
    wanted = call.json()
    # The client leaves the ref out when it opens a pull request, which everyone may.
    require_write(repository, call.token, pull_request="ref" not in wanted)
    verify = {"href": f"{endpoint}/{repository.id}.git/info/lfs/objects/verify"}
    objects: list[dict[str, Any]] = []
    for asked in wanted["objects"]:
        found: dict[str, Any] = {"oid": asked["oid"], "size": asked["size"]}
        if asked["oid"] not in repository.lfs_objects:
            secret = secrets.token_hex(16)
            grants[secret] = Grant(repository, asked["oid"], asked["size"])
            found["authenticated"] = True
            found["actions"] = {"upload": {"href": f"{endpoint}/lfs/{secret}"}, "verify": verify}
        objects.append(found)
    return json_answer({"transfer": "basic", "objects": objects})


def upload(secret: str, grants: Mapping[str, Grant], call: Call) -> Answer:
    """Takes an object whole or not at all."""
    grant = grants.get(secret)
    if grant is None:
        raise RefusedError(403, "SignatureDoesNotMatch")
    if len(call.body) != grant.size or hashlib.sha256(call.body).hexdigest() != grant.oid:
        raise RefusedError(400, "BadDigest")
    grant.repository.lfs_objects[grant.oid] = call.body
    return Answer()


def verify(repository: Repository, call: Call) -> Answer:
    """Whether an object is there, in the size that the client thinks it has."""
    wanted = call.json()
    if len(repository.lfs_objects.get(wanted["oid"], b"")) != wanted["size"]:
        raise RefusedError(404, f"Object {wanted['oid']} is missing or incomplete")
    return json_answer({})

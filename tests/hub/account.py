"""Requests that are about no existing repository: who one is, new repositories, cards."""

from typing import TYPE_CHECKING

from .card import card_errors, card_warnings
from .refusals import no_credentials
from .tokens import require_namespace, require_sight
from .traffic import Answer, Call, json_answer
from .writing import wants_private

if TYPE_CHECKING:
    from .server import Hub


def whoami(call: Call) -> Answer:
    """What `whoami` shows."""
    if call.token is None:
        raise no_credentials()
    token = call.token
    access = {"displayName": "test", "role": token.role}
    content = {
        "type": "user",
        "name": token.user,
        "fullname": token.user,
        "orgs": [{"type": "org", "name": name} for name in token.organizations],
        "auth": {"type": "access_token", "accessToken": access},
    }
    return json_answer(content)


def create_repository(server: "Hub", call: Call) -> Answer:
    """A new repository with the Hub's first commit; 409 with its address if it is there."""
    wanted = call.json()
    owner = wanted.get("organization") or (call.token and call.token.user)
    repo_id = f"{owner}/{wanted['name']}"
    require_namespace(repo_id, call.token)
    content = {"url": f"{server.endpoint}/{repo_id}", "name": repo_id}
    if repo_id in server.repositories:
        return json_answer({"error": "You already created this model repo", **content}, 409)
    server.add_repository(repo_id, private=wants_private(wanted))
    return json_answer(content)


def delete_repository(server: "Hub", call: Call) -> Answer:
    """Forgets a repository."""
    wanted = call.json()
    owner = wanted.get("organization") or (call.token and call.token.user)
    repo_id = f"{owner}/{wanted['name']}"
    require_sight(server.repositories.get(repo_id), call.token)
    require_namespace(repo_id, call.token)
    del server.repositories[repo_id]
    return json_answer({})


def validate_yaml(call: Call) -> Answer:
    """What the Hub thinks of the metadata of a card."""
    text = call.json()["content"]
    errors = [{"message": message} for message in card_errors(text)]
    warnings = [{"message": message} for message in card_warnings(text)]
    return json_answer({"errors": errors, "warnings": warnings}, 400 if errors else 200)

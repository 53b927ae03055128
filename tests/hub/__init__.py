"""A small Hugging Face Hub on loopback, for the real `huggingface_hub` client.

    with hub(mode="lfs") as server:
        run_client(env=server.environment(home, token=OWNER))     # a process of its own
        assert len(server.repositories["owner/x"].commits) == 2   # the Hub's first, and ours

It knows models only, keeps everything in memory, and offers no xet and no multipart upload.
"""

from .faults import How
from .repository import Commit, File, Mode, Repository
from .routes import Kind
from .server import OWNER, READER, STRANGER, Hub, hub, serving
from .tokens import Token
from .traffic import Request

__all__ = [
    "OWNER",
    "READER",
    "STRANGER",
    "Commit",
    "File",
    "How",
    "Hub",
    "Kind",
    "Mode",
    "Repository",
    "Request",
    "Token",
    "hub",
    "serving",
]

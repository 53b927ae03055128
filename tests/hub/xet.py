"""Lets the client keep chunks in a folder, as it does in the Hub's store."""

import json
import time
from pathlib import Path

from .refusals import RefusedError
from .traffic import Answer, Call


def token(store: Path | None, _: Call) -> Answer:
    """Where chunks go; the folder takes any token."""
    if store is None:
        raise RefusedError(404, "this Hub has no xet; set HF_HUB_DISABLE_XET=1 in the client")
    address, ends = f"local://{store}", int(time.time()) + 3600
    facts = {"casUrl": address, "accessToken": "any", "exp": ends}
    headers = {
        "X-Xet-Cas-Url": address,
        "X-Xet-Access-Token": "any",
        "X-Xet-Token-Expiration": str(ends),
    }
    return Answer(200, json.dumps(facts).encode(), headers)


def n_bytes(store: Path) -> int:
    """Size of all chunks in a store, compressed."""
    blocks = (store / "xet" / "xorbs").glob("*/*")
    return sum(block.stat().st_size for block in blocks if block.suffix != ".tagset")

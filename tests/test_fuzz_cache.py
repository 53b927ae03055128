"""Whatever `cached_activations.json` says: a run trains from the activations, or says why not."""

import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sae_lens_groups import SAESuite
from sae_lens_groups.errors import GroupSAEError

from .fuzzing import damaged_file, fuzzed, message_of
from .test_cached_activations import CACHED, make_runner, write_cache

MANIFEST = Path("cache/cached_activations.json")
SHORT: dict[str, Any] = {"training_tokens": 64, "n_batches_for_norm_estimate": 1, **CACHED}


@fuzzed(40)
@given(data=st.data())
def test_a_damaged_cache_manifest_is_a_run_or_a_clear_error(data: st.DataObject) -> None:
    if not MANIFEST.exists():
        write_cache()
    original = MANIFEST.read_bytes()
    try:
        MANIFEST.write_bytes(data.draw(damaged_file(json.loads(original))))
        suite = make_runner(**SHORT).run()
    except GroupSAEError as error:
        message_of(error)
        return
    finally:
        MANIFEST.write_bytes(original)
    assert isinstance(suite, SAESuite)
    assert len(suite) == 4

"""Files on disk, whoever wrote them: named, written whole, read with care."""

from sae_lens_groups.files.checksums import (
    ChecksumEntry,
    Checksums,
    checksums_in,
    checksums_text,
    write_checksums,
)
from sae_lens_groups.files.folder import CheckedFolder, lies_inside, suite_around
from sae_lens_groups.files.markdown import MISSING, cell, code, plain, ticks_around
from sae_lens_groups.files.names import *  # noqa: F403  # the whole table of names
from sae_lens_groups.files.places import is_local_path, last_name, roots, without_run_id
from sae_lens_groups.files.reading import (
    MISREAD,
    UNREADABLE,
    Entries,
    FileEntries,
    Positive,
    did_you_mean,
    exists,
    expanded,
    parse_json,
    read_entries,
    refusing,
    require_kinds,
)
from sae_lens_groups.files.tensors import (
    MOST_NUMBERS,
    Shape,
    load_numbers,
    require_numbers,
    require_tensors,
    tensors_in,
)
from sae_lens_groups.files.writing import (
    csv_text,
    finish_folder,
    free_folder,
    json_text,
    new_folder,
    only_writer,
    partial_name,
    replaced_folder,
    require_free,
    require_writable,
    write_text,
)

"""Text in, rows out: the language model, its hooks, the draw of layers, the shuffle buffer."""

from sae_lens_groups.activations.batches import BatchStream, RowSource, TrainingBatches
from sae_lens_groups.activations.dataset import (
    EVERY_ROW,
    CountedRows,
    DatasetId,
    as_stream,
    fingerprint,
    held_out_rows,
    open_dataset,
    open_train_split,
    require_usable_rows,
)
from sae_lens_groups.activations.draw import RowSink
from sae_lens_groups.activations.first_row import (
    known_column,
    require_as_pretokenized,
    require_chat_template,
    require_usable_first_row,
)
from sae_lens_groups.activations.fit import (
    known_width,
    require_hooks,
    require_positions,
    require_width,
    width_at,
    width_before_loading,
)
from sae_lens_groups.activations.flops import flops_of
from sae_lens_groups.activations.hooks import Site, run_to_last_hook, taking_flat_heads
from sae_lens_groups.activations.model import (
    compile_if_asked,
    is_same_model,
    load_for_sites,
    load_hooked_model,
    load_with_hooks,
    n_layers_before_loading,
    n_layers_of,
    official_name,
)
from sae_lens_groups.activations.norms import (
    USUAL_MULTIPLE,
    ActivationNorms,
    LayerNorms,
    measure_norms,
)
from sae_lens_groups.activations.pair_moments import moments_of_pairs, pairs_with_middle_layers
from sae_lens_groups.activations.remote_code import require_no_remote_code, without_remote_code
from sae_lens_groups.activations.shuffle_buffer import (
    GroupBatch,
    ShuffleBuffer,
    ShuffleBuffers,
    n_batches_to_serve,
    rows_name,
)
from sae_lens_groups.activations.side_by_side import SideBySide
from sae_lens_groups.activations.store import (
    ROWS_READ,
    GroupActivationsStore,
    are_finite,
    norms_of,
)
from sae_lens_groups.activations.token_store import TokenStore

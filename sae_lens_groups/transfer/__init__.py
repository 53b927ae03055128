"""Starting SAEs from trained ones (init_from)."""

from sae_lens_groups.transfer.check import usable_source
from sae_lens_groups.transfer.keep import kept_groups, rows_read_for, with_kept_layers
from sae_lens_groups.transfer.start import Transfer

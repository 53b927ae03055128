"""`python -m sae_lens_groups` is the command `sae-lens-groups`."""

import sys

from sae_lens_groups.cli import main

sys.exit(main())

"""The training step of SAEs with few active latents: same loss and gradients, a part of the work.

Of SAELens's step for such SAEs only the encoder's product and the choice of what is active need
all latents. The decoder and every gradient are sums over the active ones.

Shapes: B rows of a training batch, D = d_in, F = d_sae, N latents that are active in the batch,
C features that may be dead.
"""

from sae_lens_groups.train.fast_step.active_latents import ActiveLatents
from sae_lens_groups.train.fast_step.choice import (
    ALWAYS,
    AUTO,
    NEVER,
    StepChoice,
    make_step,
    require_usable_step,
    step_of_config,
    step_of_sae,
    steps_text,
    why_not,
)
from sae_lens_groups.train.fast_step.pre_activations import PreActivations
from sae_lens_groups.train.fast_step.scratch import Scratch
from sae_lens_groups.train.fast_step.sharded import (
    ShardedStep,
    new_sharded_step,
    why_not_sharded,
)
from sae_lens_groups.train.fast_step.sparse_step import SparseStep
from sae_lens_groups.train.fast_step.topk_like import TopKLikeStep

"""The step of `abstopk`: the k of largest magnitude of each row, with their signs."""

from sae_lens_groups.train.fast_step.topk import TopKStep


class AbsTopKStep(TopKStep):
    """The sparse step of SAELens's `AbsTopKTrainingSAE`."""

    by_magnitude = True

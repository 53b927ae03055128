"""A decoder by ridge least squares, from latents of which few are active in a row.

Shapes: N rows, F latents, D = d_in.
"""

import warnings
from functools import cached_property

import torch

# Latents whose products with one another are held: 8 F² bytes twice over, 270 MB of float64.
# There it is 5 to 10 times faster than conjugate gradients.
_LARGEST_GRAM = 4096
_TOLERANCE, _MOST_STEPS = 1e-6, 500


class LeastSquares:
    """The squared error of a decoder, |target - latents @ (decoder + change)|², by its change.

    Memory is that of the latents twice over, of the target and of some decoders, (F, D) each.

    Args:
        latents_NF: sparse, or to become so.
        target_ND: what is to be reconstructed.
        decoder_FD: what there is.
    """

    def __init__(
        self, latents_NF: torch.Tensor, target_ND: torch.Tensor, decoder_FD: torch.Tensor
    ) -> None:
        self._latents_NF = _by_row(latents_NF)
        self._latents_FN = _by_row(self._latents_NF.t())
        self._residual_ND = target_ND - self._latents_NF @ decoder_FD
        self._is_direct = latents_NF.shape[1] <= _LARGEST_GRAM

    def squared_error(self, change_FD: torch.Tensor | None = None) -> torch.Tensor:
        """What is left of each row with this change, or without any, (N,)."""
        left_ND = self._residual_ND
        if change_FD is not None:
            left_ND = left_ND - self._latents_NF @ change_FD
        return left_ND.double().square().sum(1)

    def solution(self, ridge_F: torch.Tensor) -> torch.Tensor:
        """The change (F, D) for which squared error + sum of ridge_F * |change_F|² is smallest."""
        if not self._is_direct:
            return self._by_conjugate_gradients(ridge_F)
        factor_FF = torch.linalg.cholesky(self._gram_FF + torch.diag(ridge_F.double()))
        return torch.cholesky_solve(self._target_FD.double(), factor_FF).to(self._target_FD)

    @cached_property
    def _target_FD(self) -> torch.Tensor:
        return self._latents_FN @ self._residual_ND

    @cached_property
    def _gram_FF(self) -> torch.Tensor:
        latents_NF = self._latents_NF.double()
        return (self._latents_FN.double() @ latents_NF).to_dense()

    def _by_conjugate_gradients(self, ridge_F: torch.Tensor) -> torch.Tensor:
        """Never holds anything of F x F. Every column has steps of its own.

        Preconditioned by the diagonal, of which the matrix is mostly made: 12 to 20 steps.
        """
        ridge_F1 = ridge_F[:, None].to(self._target_FD)
        diagonal_F1 = self._squares_F1 + ridge_F1
        left_FD, change_FD = self._target_FD.clone(), torch.zeros_like(self._target_FD)
        enough_D = _TOLERANCE * left_FD.norm(dim=0)
        scaled_FD = left_FD / diagonal_F1
        step_FD, product_D = scaled_FD, (left_FD * scaled_FD).sum(0)
        for _ in range(_MOST_STEPS):
            if (left_FD.norm(dim=0) <= enough_D).all():
                break
            image_FD = self._latents_FN @ (self._latents_NF @ step_FD) + ridge_F1 * step_FD
            length_D = _ratio(product_D, (step_FD * image_FD).sum(0))
            change_FD += length_D * step_FD
            left_FD -= length_D * image_FD
            scaled_FD = left_FD / diagonal_F1
            before_D, product_D = product_D, (left_FD * scaled_FD).sum(0)
            step_FD = scaled_FD + _ratio(product_D, before_D) * step_FD
        return change_FD

    @cached_property
    def _squares_F1(self) -> torch.Tensor:
        latents_FN = self._latents_FN
        squared_FN = torch.sparse_csr_tensor(
            latents_FN.crow_indices(),
            latents_FN.col_indices(),
            latents_FN.values().square(),
            latents_FN.shape,
            check_invariants=False,
        )
        return squared_FN @ torch.ones(latents_FN.shape[1], 1).to(self._residual_ND)


def _by_row(sparse: torch.Tensor) -> torch.Tensor:
    with warnings.catch_warnings():  # torch calls the format beta
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return sparse.to_sparse_csr()


def _ratio(part_D: torch.Tensor, whole_D: torch.Tensor) -> torch.Tensor:
    """0 where both are, in columns that are solved."""
    return torch.where(whole_D > 0, part_D / whole_D, 0.0)

"""What two layers have in common: the sums that a map between them is fitted from."""

import torch
from sae_lens.training.activation_scaler import ActivationScaler

from sae_lens_groups.scaling.layer_scaler import LayerMap, scaling_map

LayerPair = tuple[int, int]
"""A layer, and the layer it is mapped to."""

# Of every batch, so that other prompts are behind them; a map of D x D is larger than these.
_HELD_OUT_SHARE, _MOST_HELD_OUT = 5, 2048


class PairMoments:
    """Sums over tokens of x, y, |x|, |y|, x^T x, y^T y and x^T y.

    x are the activations at a layer, y those at the layer it is mapped to. The last fifth of each
    batch, up to 2,048 tokens in all, is also kept as rows, so that a map can be fitted without
    them and be checked on them.
    """

    def __init__(self, d_in: int) -> None:
        self.n_tokens = 0
        self.sum_norm_x, self.sum_norm_y = torch.zeros(2, dtype=torch.float64)
        self.sum_x_D, self.sum_y_D = torch.zeros(2, d_in, dtype=torch.float64)
        self.xx_DD, self.yy_DD, self.xy_DD = torch.zeros(3, d_in, d_in, dtype=torch.float64)
        self.held_x_BD, self.held_y_BD = torch.zeros(2, 0, d_in, dtype=torch.float64)

    def to(self, device: torch.device | str) -> "PairMoments":
        """The same sums on a device."""
        moved = PairMoments(0)
        for name, value in vars(self).items():
            setattr(moved, name, value.to(device) if isinstance(value, torch.Tensor) else value)
        return moved

    def add(self, x_BD: torch.Tensor, y_BD: torch.Tensor) -> None:
        """Takes the same tokens' activations at both layers into account."""
        x_BD, y_BD = x_BD.to(self.xx_DD), y_BD.to(self.xx_DD)
        self.n_tokens += len(x_BD)
        self.sum_x_D += x_BD.sum(dim=0)
        self.sum_y_D += y_BD.sum(dim=0)
        self.sum_norm_x += x_BD.norm(dim=1).sum()
        self.sum_norm_y += y_BD.norm(dim=1).sum()
        self.xx_DD += x_BD.T @ x_BD
        self.yy_DD += y_BD.T @ y_BD
        self.xy_DD += x_BD.T @ y_BD
        n_held = min(len(x_BD) // _HELD_OUT_SHARE, _MOST_HELD_OUT - len(self.held_x_BD))
        if n_held > 0:
            self.held_x_BD = torch.cat([self.held_x_BD, x_BD[-n_held:]])
            self.held_y_BD = torch.cat([self.held_y_BD, y_BD[-n_held:]])

    def without_held_out(self) -> "PairMoments":
        """The sums over all other tokens."""
        held, rest = PairMoments(len(self.sum_x_D)), PairMoments(len(self.sum_x_D))
        held.add(self.held_x_BD, self.held_y_BD)
        for name, value in vars(self).items():
            if not name.startswith("held"):
                setattr(rest, name, value - getattr(held, name))
        return rest

    def held_out_r2(self, layer_map: LayerMap) -> tuple[float, float]:
        """How much of y a map explains on the tokens held out, and of x its way back."""
        x_BD, y_BD = self.held_x_BD, self.held_y_BD
        return _r2(layer_map.forward(x_BD), y_BD), _r2(layer_map.backward(y_BD), x_BD)

    @property
    def norm_ratio(self) -> float:
        """The mean norm of y over that of x."""
        return float(self.sum_norm_y / self.sum_norm_x)

    def scaled(self, scaler_x: ActivationScaler, scaler_y: ActivationScaler) -> "PairMoments":
        """The moments of the scaled activations, which need not be read again.

        Mean norms do not follow from moments where a scaler whitens; root mean squares stand in.
        """
        d_in = len(self.sum_x_D)
        of_x, of_y = scaling_map(scaler_x, d_in), scaling_map(scaler_y, d_in)
        (P_DD, p_D), (Q_DD, q_D) = (of_x.matrix_DD, of_x.offset_D), (of_y.matrix_DD, of_y.offset_D)
        n, scaled = self.n_tokens, PairMoments(d_in)
        scaled.n_tokens = n
        scaled.sum_x_D = self.sum_x_D @ P_DD + n * p_D
        scaled.sum_y_D = self.sum_y_D @ Q_DD + n * q_D
        scaled.xx_DD = _products(self.xx_DD, self.sum_x_D, self.sum_x_D, P_DD, p_D, P_DD, p_D, n)
        scaled.yy_DD = _products(self.yy_DD, self.sum_y_D, self.sum_y_D, Q_DD, q_D, Q_DD, q_D, n)
        scaled.xy_DD = _products(self.xy_DD, self.sum_x_D, self.sum_y_D, P_DD, p_D, Q_DD, q_D, n)
        scaled.sum_norm_x = _sum_of_norms(self.sum_norm_x, scaler_x, scaled.xx_DD, n)
        scaled.sum_norm_y = _sum_of_norms(self.sum_norm_y, scaler_y, scaled.yy_DD, n)
        scaled.held_x_BD = self.held_x_BD @ P_DD + p_D
        scaled.held_y_BD = self.held_y_BD @ Q_DD + q_D
        return scaled


def _r2(found_BD: torch.Tensor, y_BD: torch.Tensor) -> float:
    return float(1 - (found_BD - y_BD).square().sum() / (y_BD - y_BD.mean(0)).square().sum())


def _sum_of_norms(
    raw: torch.Tensor, scaler: ActivationScaler, products_DD: torch.Tensor, n: int
) -> torch.Tensor:
    if getattr(scaler, "whitening", None) is not None:
        return (n * products_DD.trace()).sqrt()
    return raw * (1.0 if scaler.scaling_factor is None else scaler.scaling_factor)


def _products(
    xy_DD: torch.Tensor,
    sum_x_D: torch.Tensor,
    sum_y_D: torch.Tensor,
    P_DD: torch.Tensor,
    p_D: torch.Tensor,
    Q_DD: torch.Tensor,
    q_D: torch.Tensor,
    n: int,
) -> torch.Tensor:
    """Sums of (x P + p)^T (y Q + q) from those of x^T y, x and y."""
    return (
        P_DD.T @ xy_DD @ Q_DD
        + torch.outer(P_DD.T @ sum_x_D, q_D)
        + torch.outer(p_D, sum_y_D @ Q_DD)
        + n * torch.outer(p_D, q_D)
    )

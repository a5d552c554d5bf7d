"""A customer's loss, from that customer's row alone.

B batch (one row a customer)   T tokens   V vocabulary
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def token_losses(logits_BTV: torch.Tensor, ids_BT: torch.Tensor, counts_BT: torch.Tensor) -> torch.Tensor:
    """Return (B, T-1) negative log-likelihoods in nats of every next id, times how much it counts (false and true: 0, 1)."""
    following_BT = F.pad(ids_BT[:, 1:], (0, 1))
    # over flat rows of logits: on a processor the kernel for (B, V, T) is slower and 17 times less exact
    losses = F.cross_entropy(logits_BTV.float().flatten(0, 1), following_BT.flatten(), reduction="none")
    return losses.view_as(following_BT)[:, :-1] * counts_BT[:, 1:].to(losses.dtype)


def customer_loss(logits_BTV: torch.Tensor, ids_BT: torch.Tensor, counts_BT: torch.Tensor) -> torch.Tensor:
    """Return (B,) losses in nats, each the mean over the row's ids weighted by how much they count, zero where none does.

    `counts_BT` holds 0 or false where an id does not count and at least 1 where it does. Row b reads row b only.

    The sum over rows is what is differentiated: a mean over the batch's tokens would let one customer's length rescale
    everybody else's gradient.
    """
    losses_BT = token_losses(logits_BTV, ids_BT, counts_BT)
    return losses_BT.sum(1) / counts_BT[:, 1:].sum(1).clamp(min=1)

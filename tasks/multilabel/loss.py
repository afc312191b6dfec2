# SPDX-License-Identifier: Apache-2.0
"""What a tag's logit costs, element by element."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def asymmetric_loss(
    logits: Tensor, targets: Tensor, gamma_negative: float, gamma_positive: float, clip: float
) -> Tensor:
    """Asymmetric loss of every element (Ridnik et al. 2021, Asymmetric Loss For Multi-Label Classification, eq. 5-7).

    A positive costs -(1 - p)^gamma_positive log p; a negative -q^gamma_negative log(1 - q) with q = max(p - clip, 0),
    so that easy negatives, which are most of them, cost little or nothing. All zero gives binary cross-entropy.

    Args:
        logits: float of any shape.
        targets: 1 or 0 of the same shape.
        gamma_negative, gamma_positive: focusing exponents, not negative.
        clip: probability under which a negative costs nothing.
    """
    p = logits.sigmoid()
    floor = 1e-8  # not zero: a fractional power has no finite slope there
    present = (1 - p).clamp(min=floor).pow(gamma_positive) * F.logsigmoid(logits)
    shifted = (p - clip).clamp(min=floor)
    log_absent = F.logsigmoid(-logits) if clip == 0 else (1 - p + clip).clamp(max=1).log()
    return -(targets * present + (1 - targets) * shifted.pow(gamma_negative) * log_absent)

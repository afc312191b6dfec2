# SPDX-License-Identifier: Apache-2.0
"""What images cost that lie far from their captions, or near to others'.

Legend: B images, M captions of all of them, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

_SAME = 0.999  # cosine from which two captions say the same


def belonging(owner: Tensor, texts: Tensor, images: int) -> Tensor:
    """(B, M) bool: which captions are true of an image: its own, and others' that say the same.

    Args:
        owner: (M,) int64, the image a caption was written for.
        texts: (M, D) unit length.
        images: B.
    """
    own = torch.nn.functional.one_hot(owner, images).T.bool()  # (B, M)
    same = texts @ texts.T > _SAME  # (M, M)
    return (own.to(texts.dtype) @ same.to(texts.dtype)) > 0


def contrastive(logits: Tensor, true: Tensor) -> Tensor:
    """InfoNCE between images and captions, both ways, summed over images.

    Each true pair competes with the false captions of its image and with the false images of its caption (van den Oord
    et al. 2018, Representation Learning with Contrastive Predictive Coding, eq. 4; both ways as in Radford et al. 2021,
    CLIP, sec. 2.3). Other captions of the same image are no rivals. The terms of an image's captions are averaged, as
    are the two ways.

    Args:
        logits: (B, M) cosines over the temperature.
        true: (B, M) bool.

    Returns:
        A scalar; images without captions add nothing.
    """
    rivals = logits.masked_fill(true, float("-inf"))
    by_image = torch.logaddexp(logits, rivals.logsumexp(dim=1, keepdim=True)) - logits  # (B, M)
    by_text = torch.logaddexp(logits, rivals.logsumexp(dim=0, keepdim=True)) - logits
    weight = true.to(logits.dtype) / true.sum(dim=1, keepdim=True).clamp(min=1)
    return ((by_image + by_text) / 2 * weight).sum()

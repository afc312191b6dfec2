# SPDX-License-Identifier: Apache-2.0
"""Batch norms inside convolutions: at inference a norm is an affine map of each channel, and so is a convolution's end.

With w, b of the norm, m, v its statistics and s = w / sqrt(v + eps): W' = s W, b' = b - s m (Ioffe and Szegedy 2015).
"""

from __future__ import annotations

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from unified.model.latents.fold import fold
from unified.model.layers.conv import Conv
from unified.model.network import UnifiedNetwork


def fuse(network: UnifiedNetwork) -> UnifiedNetwork:
    """A copy for inference only: latents folded, and every norm of a :class:`Conv` made part of its convolution.

    Its answers equal those of ``network.eval()`` up to rounding. Norms of timm trunks, and those that follow a
    concatenation, stay as they are.
    """
    made = fold(network).network
    for module in made.modules():
        if isinstance(module, Conv) and isinstance(module.norm, nn.BatchNorm2d):
            kind = module.conv.weight.dtype
            exact = fuse_conv_bn_eval(module.conv.double().eval(), module.norm.double().eval())
            module.conv = exact.to(kind).requires_grad_(False)
            module.norm = nn.Identity()  # type: ignore[assignment]
    return made.eval()

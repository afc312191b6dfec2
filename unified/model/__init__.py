# SPDX-License-Identifier: Apache-2.0
"""The network: explicit trunk, implicit latents, and what builds them."""

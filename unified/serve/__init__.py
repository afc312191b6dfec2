# SPDX-License-Identifier: Apache-2.0
"""A trained model over HTTP: bytes in, JSON out."""

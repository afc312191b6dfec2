# SPDX-License-Identifier: Apache-2.0
"""A page in the browser: pictures in, what the network sees out. It listens on loopback only."""

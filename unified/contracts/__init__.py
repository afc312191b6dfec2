# SPDX-License-Identifier: Apache-2.0
"""The words everybody speaks: structures, protocols, the registry, configuration and errors."""

# SPDX-License-Identifier: Apache-2.0
"""Ways into the houses of others: networks, tasks, datasets and answers in the forms that other frameworks take.

Each module here needs its framework; nothing else in the package imports them.
"""

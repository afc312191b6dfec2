# SPDX-License-Identifier: Apache-2.0
"""The contract tests that the built-in parts pass, for everybody's own.

``check_head("my_head")``, ``check_task("my_task")`` and ``check_backbone("my_trunk")`` return where all is well and
raise :class:`ContractError` with one line that names package and part where it is not. They need no test framework.
"""

from unified.testing.backbone import check_backbone as check_backbone
from unified.testing.contract import ContractError as ContractError
from unified.testing.head import check_head as check_head
from unified.testing.scene import VOCABULARY as VOCABULARY
from unified.testing.scene import blank as blank
from unified.testing.scene import scene as scene
from unified.testing.task import check_task as check_task

__all__ = ["VOCABULARY", "ContractError", "blank", "check_backbone", "check_head", "check_task", "scene"]

# SPDX-License-Identifier: Apache-2.0
"""``report.html``: a run that explains itself, on one page that needs no network and no other file.

:func:`write_report` makes it of what lies in the run's folder: ``config.yaml``, ``log.jsonl``, ``report.json`` (what
the last evaluation showed) and ``report.safetensors`` (every z before and after).
"""

from unified.training.page.document import write_report as write_report

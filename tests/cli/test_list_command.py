# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from importlib.metadata import EntryPoint

import pytest

from unified.cli import list as command
from unified.contracts import protocols


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        command.main(list(words))
    out, err = capsys.readouterr()
    return int(caught.value.code or 0), out, err


def test_every_part_of_ours_is_listed_with_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "--json")
    rows = {(row["group"], row["name"]): row for row in json.loads(out)}
    assert code == 0 and {("tasks", "det"), ("heads", "embed"), ("datasets", "coco"), ("latents", "vector")} <= set(
        rows
    )
    ours = [row for row in rows.values() if row["package"] == "unified-networks" and not row["error"]]
    assert all(row["summary"].endswith(".") or len(row["summary"]) > 10 for row in ours)


def test_a_broken_part_is_shown_with_its_reason(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    points = protocols.heads._entry_points()
    broken = EntryPoint("broken", "no_such_package_here:Head", "unified.heads")
    monkeypatch.setattr(protocols.heads, "_installed", {**points, "broken": broken})
    code, out, _ = said(capsys, "heads")
    assert code == 0 and "multilabel" in out
    line = next(line for line in out.splitlines() if line.startswith("cannot be used: "))
    assert "head 'broken' of package" in line and "No module named 'no_such_package_here'" in line


def test_an_unknown_kind_lists_the_known(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = said(capsys, "haeds")
    assert code == 2 and "did you mean 'heads'?" in err

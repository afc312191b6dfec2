# SPDX-License-Identifier: Apache-2.0
"""The page of a run in a real browser that has no network."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from html import unescape
from pathlib import Path

import pytest
from page_runs import HOSTILE, a_run

from unified.training.page import write_report

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome here")

QUIET = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps"),
    *("--proxy-server=http://127.0.0.1:9", "--enable-logging=stderr", "--virtual-time-budget=4000"),
)

ACTS = """
const out={};
const heads=[...document.querySelectorAll('.sorts thead button')];
const table=heads[2].closest('table'),first=()=>[...table.tBodies[0].rows].map(r=>+r.cells[2].dataset.v);
heads[2].click();out.down=first();heads[2].click();out.up=first();
const chart=document.querySelector('.chart.pick'),select=chart.querySelector('select');
select.value=select.options[1].value;select.dispatchEvent(new Event('change',{bubbles:true}));
out.on=[...document.querySelectorAll('.chart.pick .line.on')].map(g=>g.dataset.name);out.picked=select.options[1].value;
const svg=chart.querySelector('svg'),box=svg.getBoundingClientRect();
svg.dispatchEvent(new PointerEvent('pointermove',{clientX:box.left+box.width/2,clientY:box.top+9,bubbles:true}));
out.tip=chart.querySelector('.tip').innerText;
const range=document.querySelector('.tools input[type=range]');range.value='0.9';
range.dispatchEvent(new Event('input'));
out.low=document.querySelectorAll('#predictions .low').length;
document.querySelector('.view svg').dispatchEvent(new MouseEvent('click',{bubbles:true}));
out.open=document.querySelector('dialog').open;
const page=document.documentElement;out.wide=[];if(page.scrollWidth>page.clientWidth)
 for(const e of document.querySelectorAll('main *'))if(e.getBoundingClientRect().right>page.clientWidth+1&&
  !e.closest('.scroll,.strip'))out.wide.push(e.className||e.tagName);
const said=document.createElement('pre');said.id='told';said.textContent=JSON.stringify(out);document.body.append(said);
"""


@dataclass(frozen=True)
class Visit:
    """What a browser made of a page."""

    dom: str
    complaints: list[str]
    asked: list[str]


def visit(page: Path, folder: Path, *flags: str) -> Visit:
    """Opens a page with an empty profile; tells console messages and whatever it asked the network for."""
    log = folder / "net.json"
    places = [f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}"]
    command = [str(BROWSER), *QUIET, *flags, *places, "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    asked = set(re.findall(r'"url":"((?:https?|wss?|ftp):[^"]+)"', log.read_text(errors="replace")))
    own = re.compile(r"//[^/]*\b(google|googleapis|gstatic|gvt1)\.com")  # what the browser itself would ask for
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Visit(done.stdout, complaints, sorted(url for url in asked if not own.search(url)))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(a_run(tmp_path_factory.mktemp("run") / "a run"))


def test_it_opens_without_a_network_and_without_a_complaint(page: Path, tmp_path: Path) -> None:
    found = visit(page, tmp_path)
    assert found.complaints == []
    assert found.asked == []
    assert 'class="picks"' in found.dom  # the script has run
    assert "HACKED" not in re.findall(r"<title>([^<]*)", found.dom)[0]
    assert all(f"<{word}" not in found.dom for word in ("iframe", "object", "marquee"))
    assert HOSTILE[0].split("<")[0] in found.dom


def test_the_harness_sees_requests_and_complaints(tmp_path: Path) -> None:
    """The control: a page as it must not be."""
    bad = tmp_path / "bad.html"
    bad.write_text('<img src="http://pictures.invalid/a.png"><script>console.error("told");nothing()</script>')
    found = visit(bad, tmp_path)
    assert "http://pictures.invalid/a.png" in found.asked
    assert len(found.complaints) >= 2


@pytest.mark.parametrize("size", ["1200,900", "500,900"], ids=["desktop", "phone"])
def test_pointing_sorting_picking_and_enlarging(page: Path, tmp_path: Path, size: str) -> None:
    text = re.sub(r"script-src 'sha256-[^']+'", "script-src 'unsafe-inline'", page.read_text())
    acting = tmp_path / "acting.html"
    acting.write_text(text.replace("</body>", f"<script>addEventListener('load',()=>{{{ACTS}}})</script></body>"))
    found = visit(acting, tmp_path, f"--window-size={size}")
    assert found.complaints == []
    told = json.loads(unescape(re.findall(r'<pre id="told">(.*?)</pre>', found.dom, re.S)[0]))
    assert told["down"] == sorted(told["down"], reverse=True)
    assert told["up"] == sorted(told["up"])
    assert len(set(told["up"])) > 1
    assert told["on"] == [told["picked"]] * 2
    assert told["picked"] in told["tip"]
    assert told["low"] > 0
    assert told["open"] is True
    assert told["wide"] == []  # nothing sticks out to the side

# SPDX-License-Identifier: Apache-2.0
"""A contact sheet as a page that needs no network and no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Final

from PIL import Image

from unified.contracts.errors import CheckpointError, DataError
from unified.disk import write_bytes
from unified.index.tile import Section, Tile, shown

_SIDE: Final = 260  # pixels of a picture in the page
_POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE: Final = """
:root{--ground:#f6f7f9;--card:#fff;--ink:#1b2330;--soft:#5d6778;--line:#e2e6ec;--accent:#0072b2}
@media (prefers-color-scheme:dark){:root{--ground:#12151b;--card:#1a1f28;--ink:#e6e9ef;--soft:#98a2b3;--line:#2b313c;
--accent:#56b4e9}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:14px/1.45 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1280px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:22px;margin:0 0 4px}
p{margin:0 0 20px;color:var(--soft)}
section{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:16px 18px;margin-bottom:16px}
h2{font-size:16px;margin:0 0 12px;overflow-wrap:anywhere}
h2 span{color:var(--soft);font-weight:400;font-size:13px;margin-left:8px}
div{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:12px}
figure{margin:0;background:var(--ground);border:1px solid var(--line);border-radius:10px;overflow:hidden}
figure.asked{border:3px solid var(--accent)}
img,i{display:block;width:100%;aspect-ratio:1;object-fit:contain;background:#0b0d11}
i{display:grid;place-items:center;color:#98a2b3;font-style:normal;font-size:12px}
figcaption{padding:6px 9px;font-size:12px;overflow-wrap:anywhere}
figcaption span{color:var(--soft);display:block}
"""


def save_page(title: str, note: str, sections: Sequence[Section], path: Path) -> None:
    """Writes sections as a page with their pictures inside it.

    Raises:
        DataError: the file cannot be written.
    """
    body = "".join(_section(section) for section in sections) or "<section><h2>nothing was found</h2></section>"
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body><main><h1>{escape(title)}</h1><p>{escape(note)}</p>{body}</main></body></html>\n"
    )
    try:
        write_bytes(path, text.encode("utf-8", "backslashreplace"))
    except CheckpointError as error:
        raise DataError(f"--html {path}: {error}") from error


def _section(section: Section) -> str:
    tiles = "".join(_figure(tile) for tile in section.tiles)
    return f"<section><h2>{escape(section.title)}<span>{escape(section.note)}</span></h2><div>{tiles}</div></section>"


def _figure(tile: Tile) -> str:
    picture, told = tile.image(_SIDE), escape(shown(tile.path), quote=True)
    seen = f'<img src="{_inline(picture)}" alt="{told}" title="{told}">' if picture else "<i>not readable</i>"
    mark = ' class="asked"' if tile.asked else ""
    return f"<figure{mark}>{seen}<figcaption>{escape(tile.title)}<span>{escape(tile.note)}</span></figcaption></figure>"


def _inline(picture: Image.Image) -> str:
    held = io.BytesIO()
    picture.save(held, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(held.getvalue()).decode()}"

# SPDX-License-Identifier: Apache-2.0
"""The parts of the page."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import streamlit as st
from PIL import Image, ImageDraw

from unified.app.sitting import Seen, Sitting
from unified.index.tile import tile_of

UPLOAD, CAMERA, CHOOSE = "Upload", "Camera", "Choose"
KINDS: Final = ["jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff"]
TAGS_SHOWN, COLUMNS, SIDE = 12, 6, 320

_STYLE = """
<style>
.block-container{padding-top:2.6rem;max-width:1320px}
h1{font-size:1.7rem!important;padding:0 0 .2rem!important}
h3{font-size:1.02rem!important;padding:.1rem 0 .3rem!important;color:#3A4452}
[data-testid="stMetric"]{background:#F6F8FA;border:1px solid #E3E8EE;border-radius:10px;padding:.55rem .9rem}
[data-testid="stMetricValue"]{font-size:1.35rem}
.tag{display:grid;grid-template-columns:8.5rem 1fr 3rem;gap:.7rem;align-items:center;margin:.2rem 0;font-size:.92rem}
.tag i{display:block;height:.62rem;border-radius:.31rem;background:#E8EDF2;overflow:hidden}
.tag i b{display:block;height:100%;border-radius:.31rem}
.tag span:last-child{text-align:right;font-variant-numeric:tabular-nums;color:#3A4452}
.tag span:first-child{overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.faint{opacity:.45}
</style>
"""


@dataclass(frozen=True)
class Chosen:
    """What the controls stand at."""

    picture: bytes | Path | None
    name: str
    confidence: float
    tag_score: float
    nearest: int


def icon() -> Image.Image:
    """The page's sign in the browser: a box round a dot. A named one would be fetched from the web."""
    drawn = Image.new("RGBA", (64, 64))
    pen = ImageDraw.Draw(drawn)
    pen.rounded_rectangle((5, 5, 58, 58), 12, outline="#0072B2", width=8)
    pen.ellipse((24, 24, 40, 40), fill="#E69F00")
    return drawn


def header() -> None:
    """The page's style, which is the same for all its parts."""
    st.html(_STYLE)


def controls(sitting: Sitting) -> Chosen:
    """The side of the page: where the picture comes from, and the sliders."""
    with st.sidebar:
        st.title("Unified")
        st.caption(f"**{sitting.name}** · {', '.join(sitting.model.tasks)} · {sitting.model.size} px")
        places = [UPLOAD, CAMERA] + ([CHOOSE] if sitting.pictures else [])
        place = st.segmented_control(
            "Picture", places, default=CHOOSE if sitting.pictures else UPLOAD, required=True, width="stretch"
        )
        picture, name = _picture(sitting, str(place))
        st.divider()
        confidence = st.slider("Confidence of a box", 0.0, 1.0, 0.25, 0.01)
        tag_score = st.slider("Score of a tag", 0.0, 1.0, 0.5, 0.01)
        nearest = st.slider("Nearest pictures", 0, 24, 6) if sitting.index is not None else 0
        if sitting.index is not None:
            st.caption(f"Index of {len(sitting.index):,} rows")
    return Chosen(picture, name, confidence, tag_score, nearest)


def _picture(sitting: Sitting, place: str) -> tuple[bytes | Path | None, str]:
    if place == CHOOSE:
        names = {path.name: path for path in sitting.pictures}
        name = st.selectbox("File", list(names), label_visibility="collapsed")
        return (names[name], name) if name else (None, "")
    if place == CAMERA:
        shot = st.camera_input("Camera", label_visibility="collapsed")
        return (shot.getvalue(), "camera") if shot else (None, "")
    given = st.file_uploader("File", KINDS, label_visibility="collapsed")
    return (given.getvalue(), given.name) if given else (None, "")


def empty(sitting: Sitting) -> None:
    """What stands there before there is a picture."""
    st.title("What does the network see?")
    words = sitting.model.trained.vocabulary
    st.markdown("Choose a picture on the left. It stays on this machine.")
    for title, names in (("Boxes", words.boxes), ("Tags", words.tags)):
        if names:
            shown = ", ".join(names[:60]) + (f" and {len(names) - 60} more" if len(names) > 60 else "")
            st.subheader(title)
            st.text(shown)


def show_numbers(seen: Seen) -> None:
    """How much was found, and how long it took."""
    result = seen.result
    numbers = [("Boxes", "-" if result.boxes is None else f"{len(result.boxes)}")]
    numbers += [("Picture", f"{result.size[1]} x {result.size[0]}"), ("Decoding", f"{1000 * seen.reading:.0f} ms")]
    numbers += [("Network", f"{1000 * seen.passing:.0f} ms")]
    numbers += [("Search", f"{1000 * seen.searching:.0f} ms")] if seen.hits else []
    for column, (label, value) in zip(st.columns(len(numbers)), numbers, strict=True):
        column.metric(label, value)


def show_tags(seen: Seen, least: float) -> None:
    """Bars, best first; those under the slider are faint."""
    tags = seen.result.tags
    if not tags:
        return
    st.subheader("Tags")
    st.html("".join(bar(name, score, score >= least) for name, score in list(tags.items())[:TAGS_SHOWN]))


def bar(name: str, score: float, strong: bool) -> str:
    """One tag as HTML; whatever its name is, it stays text."""
    word, color = html.escape(name), "#0072B2" if strong else "#9AA7B4"
    filled = f'<i><b style="width:{100 * min(max(score, 0.0), 1.0):.1f}%;background:{color}"></b></i>'
    return f'<div class="tag{"" if strong else " faint"}"><span>{word}</span>{filled}<span>{score:.2f}</span></div>'


def show_boxes(seen: Seen) -> None:
    """A table of what was found where."""
    boxes = seen.result.boxes
    if boxes is None:
        return
    st.subheader("Boxes")
    if not len(boxes):
        st.caption("None at this confidence.")
        return
    rows = [(box.name, box.score, ", ".join(f"{value:.0f}" for value in box.xyxy)) for box in boxes]
    table = dict(zip(("class", "score", "box in pixels"), zip(*rows, strict=True), strict=True))
    score = st.column_config.ProgressColumn("score", format="%.2f", min_value=0.0, max_value=1.0, width=80)
    height = min(38 + 35 * len(rows), 320)
    widths: dict[str, Any] = {"class": {"width": 125}, "score": score, "box in pixels": {"width": 130}}
    st.dataframe(table, hide_index=True, height=height, column_config=widths)


def show_download(seen: Seen, name: str) -> None:
    """All numbers as a file."""
    text = json.dumps(seen.result.to_dict(), indent=1)
    st.download_button("All numbers as JSON", text, f"{Path(name).stem}.json", icon=":material/download:")


def show_nearest(seen: Seen) -> None:
    """Rows of the index that are most like the picture, or like each of its boxes."""
    for asked, hits in zip(seen.asked, seen.hits, strict=True):
        st.subheader(f"Nearest to {asked}")
        for start in range(0, len(hits), COLUMNS):
            for column, hit in zip(st.columns(COLUMNS), hits[start : start + COLUMNS], strict=False):
                tile = tile_of(hit.row)
                picture = tile.image(SIDE)
                with column:
                    if picture is None:
                        st.caption("The file is gone.")
                    else:
                        st.image(picture, width="stretch")
                    st.caption(f"**{hit.score:.3f}** {tile.title}")

# SPDX-License-Identifier: Apache-2.0
"""The page itself. Streamlit runs this file from top to bottom for every change of a control."""

from __future__ import annotations

import streamlit as st

from unified.app.panels import (
    controls,
    empty,
    header,
    icon,
    show_boxes,
    show_download,
    show_nearest,
    show_numbers,
    show_tags,
)
from unified.app.sitting import held, look
from unified.contracts.errors import UnifiedError


def page() -> None:
    """Controls on the left; the picture, its tags, boxes and nearest pictures on the right."""
    st.set_page_config(page_title="Unified", page_icon=icon(), layout="wide")
    sitting = held()
    header()
    chosen = controls(sitting)
    if chosen.picture is None:
        empty(sitting)
        return
    seen = look(sitting, chosen.picture, chosen.confidence, chosen.nearest)
    show_numbers(seen)
    left, right = st.columns([5, 4], gap="medium")
    with left:
        st.image(seen.drawn, width="stretch")
        show_download(seen, chosen.name)
    with right:
        show_tags(seen, chosen.tag_score)
        show_boxes(seen)
    show_nearest(seen)


try:
    page()
except UnifiedError as error:
    st.error(str(error), icon=":material/error:")

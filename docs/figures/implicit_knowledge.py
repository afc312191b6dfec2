# SPDX-License-Identifier: Apache-2.0
"""Draws ``docs/images/implicit-knowledge.svg``: where a z may stand, and how it folds away.

Run it from the root of the checkout: ``python docs/figures/implicit_knowledge.py``.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch

OUT = Path(__file__).parents[1] / "images" / "implicit-knowledge.svg"
INK, SOFT, LINE, CARD = "#1f2d3a", "#6b7b8a", "#9fb0bd", "#f4f7f9"
TRUNK, PART = "#dfe7ec", "#ffffff"
TASKS = {"det": ("#0b7fab", "boxes"), "cls": ("#c05a12", "tags"), "emb": ("#5b8c2a", "vectors")}
LANES = {"det": 55.5, "cls": 44.5, "emb": 33.5}
MIDDLE = LANES["cls"]


def box(ax: Axes, x: float, y: float, w: float, h: float, text: str = "", fill: str = PART, size: float = 10) -> None:
    """A rounded box around the middle (x, y)."""
    corner, shape = (x - w / 2, y - h / 2), "round,pad=0,rounding_size=0.9"
    ax.add_patch(FancyBboxPatch(corner, w, h, boxstyle=shape, fc=fill, ec=INK, lw=1.0))
    ax.text(x, y, text, ha="center", va="center", fontsize=size, color=INK, linespacing=1.25)


def arrow(ax: Axes, x0: float, y0: float, x1: float, y1: float, colour: str = LINE, bend: str = "arc3") -> None:
    style = {"arrowstyle": "-|>,head_length=4,head_width=2.2", "lw": 1.4, "color": colour}
    ax.add_patch(FancyArrowPatch((x0, y0), (x1, y1), connectionstyle=bend, shrinkA=0, shrinkB=0, zorder=1, **style))


def site(ax: Axes, x: float, y: float, colour: str, sign: str = "", radius: float = 1.55) -> None:
    """A place for a z: filled where the shipped models have one, a ring where a z may stand."""
    ax.add_patch(Circle((x, y), radius, fc=colour if sign else "white", ec=colour, lw=1.6, zorder=3))
    ax.text(x, y - 0.08, sign, ha="center", va="center", fontsize=12, color="white", fontweight="bold", zorder=4)


def word(ax: Axes, x: float, y: float, text: str, size: float = 9.5, colour: str = SOFT, ha: str = "center") -> None:
    ax.text(x, y, text, ha=ha, va="center", fontsize=size, color=colour, linespacing=1.3)


def trunk(ax: Axes) -> None:
    """Image, stages and neck: the explicit part, which every task shares."""
    box(ax, 5.5, MIDDLE, 7, 9, "image\n$x$")
    arrow(ax, 9, MIDDLE, 13.6, MIDDLE)
    for i, stride in enumerate((4, 8, 16, 32)):
        x, height = 15.6 + 6.6 * i, 25 - 5 * i
        box(ax, x, MIDDLE, 3.8, height, f"s{stride}", TRUNK)
        site(ax, x + 3.3, MIDDLE, LINE, radius=1.0)
    word(ax, 25.5, 61.3, "trunk  $f_\\theta$: one look, shared by all tasks", 10.5, INK)
    word(ax, 24, 28.7, "trunk.*  off by default: a z here\ngives its task a trunk pass of its own", 9)
    arrow(ax, 39.9, MIDDLE, 43, MIDDLE)
    for level, dy in (("p3", 6.2), ("p4", 0), ("p5", -6.2)):
        box(ax, 47, MIDDLE + dy, 7.6, 5.4, level, TRUNK)
    word(ax, 47, 56.2, "neck", 10.5, INK)


def lane(ax: Axes, task: str) -> None:
    """One task: its own z at the sites, its own head."""
    colour, answer = TASKS[task]
    y = LANES[task]
    arrow(ax, 50.9, MIDDLE, 58.1, y, colour, f"arc3,rad={0.12 * (y < MIDDLE) - 0.12 * (y > MIDDLE):g}")
    site(ax, 59.8, y, colour, "×")
    arrow(ax, 61.4, y, 64.4, y, colour)
    box(ax, 69, y, 9, 6, "hidden\nlayers", size=9)
    arrow(ax, 73.5, y, 76.3, y, colour)
    site(ax, 78, y, colour, "+")
    arrow(ax, 79.6, y, 82.4, y, colour)
    box(ax, 87, y, 9, 6, "last conv\n$W,\\ b$", size=9)
    arrow(ax, 91.5, y, 94.4, y, colour)
    site(ax, 96, y, colour)
    arrow(ax, 97.6, y, 100.4, y, colour)
    ax.text(101.2, y, answer, ha="left", va="center", fontsize=11, color=colour, fontweight="bold")
    ax.text(69, y + 4.3, f"head of {task}", ha="center", va="center", fontsize=8.5, color=colour)


def folded(ax: Axes) -> None:
    """The lower half: two z and a convolution become a convolution."""
    colour, y = TASKS["det"][0], 14.6
    word(ax, 4, 21.4, "At inference z is a constant and becomes part of the convolution beside it", 11, INK, ha="left")
    word(ax, 4, 7.0, "exact, if the convolution behind + pads nothing; × folds into any", 9, ha="left")
    word(ax, 6, y, "$x$", 13, INK)
    arrow(ax, 7.6, y, 12.2, y)
    site(ax, 14, y, colour, "+")
    word(ax, 14, y - 3.6, "$z_a$", 12, colour)
    arrow(ax, 15.7, y, 20, y)
    box(ax, 25, y, 10, 6.4, "conv\n$W,\\ b$", size=10.5)
    arrow(ax, 30, y, 34.3, y)
    site(ax, 36, y, colour, "×")
    word(ax, 36, y - 3.6, "$z_m$", 12, colour)
    arrow(ax, 37.7, y, 42.4, y)
    word(ax, 44, y, "$y$", 13, INK)
    ax.text(52.2, y, "=", ha="center", va="center", fontsize=22, color=SOFT)
    word(ax, 60.4, y, "$x$", 13, INK)
    arrow(ax, 62, y, 66.6, y)
    box(ax, 71.6, y, 10, 6.4, "conv\n$W',\\ b'$", size=10.5)
    arrow(ax, 76.6, y, 81.2, y)
    word(ax, 82.8, y, "$y$", 13, INK)
    word(ax, 88, y + 2.1, "$W' = \\mathrm{diag}(z_m)\\,W$", 12.5, INK, ha="left")
    word(ax, 88, y - 2.3, "$b' = z_m \\odot (b + W z_a)$", 12.5, INK, ha="left")


def main() -> None:
    matplotlib.rcParams.update({"font.family": "DejaVu Sans", "mathtext.fontset": "cm", "svg.hashsalt": "unified"})
    figure, ax = plt.subplots(figsize=(11.4, 6.04))
    figure.subplots_adjust(0, 0, 1, 1)
    ax.set(xlim=(0, 114), ylim=(4.2, 64.6), aspect="equal")
    ax.axis("off")
    for y, height in ((25.5, 38.5), (4.8, 19.2)):
        ax.add_patch(
            FancyBboxPatch((1, y), 112, height, boxstyle="round,pad=0,rounding_size=1.6", fc=CARD, ec="none", zorder=0)
        )
    trunk(ax)
    for x, name in ((59.8, "align.*"), (78, "pre.*"), (96, "post.*")):
        word(ax, x, 61.3, name, 10.5, INK)
    word(ax, 81, 28.1, "every task has its own z; filled: as in unified-n to -l; rings: free sites", 9)
    for task in TASKS:
        lane(ax, task)
    folded(ax)
    figure.savefig(OUT, bbox_inches="tight", pad_inches=0.05, facecolor="white", metadata={"Date": None})


if __name__ == "__main__":
    main()

"""Style of plots: colors, plain axes and file output."""

from __future__ import annotations

from typing import Any

from anywidth.core.extras import from_extra

__all__ = ["INK", "LINE", "OTHERS", "QUIET", "RULE", "require_matplotlib", "style_axes"]

INK, QUIET, RULE = "#1b1f24", "#57606a", "#e5e7eb"
LINE, OTHERS = "#0b6e99", ["#c2410c", "#4d7c0f", "#7e22ce", "#a16207"]


def style_axes(axes: Any) -> None:
    """Give axes a light grid and remove the frame, in place."""
    axes.grid(True, color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#9ca3af")
    axes.tick_params(colors=QUIET, length=0, labelsize=9)


def require_matplotlib() -> Any:
    """The matplotlib module, set up to draw to files only.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    with from_extra("plots", "plots need matplotlib"):
        from matplotlib import figure
    return figure

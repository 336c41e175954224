"""From a record to what people read: one self-contained HTML page, a comparison, a terminal summary, an SVG.

Only records come in; the network that was audited is never needed here, nor is torch.
"""

from trustbound.report.comparison import render_comparison, write_comparison
from trustbound.report.figures.bracket import bracket_picture
from trustbound.report.page import render, write
from trustbound.report.sections.gallery import read_gallery
from trustbound.report.terminal import summary

__all__ = [
    "bracket_picture",
    "read_gallery",
    "render",
    "render_comparison",
    "summary",
    "write",
    "write_comparison",
]

"""Records of a compile -> report.json, report.html and a table for the terminal. Measures nothing."""

from edgedistill.report.build import build_report
from edgedistill.report.html import render_html
from edgedistill.report.terminal import render_terminal
from edgedistill.report.write import write_report

__all__ = ["build_report", "render_html", "render_terminal", "write_report"]

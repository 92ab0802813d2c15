"""The report of `rlcredit analyze`: report.json's schema, the page made from it, and figures for a paper."""

from rlcredit.analysis.report.document import FORMAT, checked
from rlcredit.analysis.report.figures import write_figures
from rlcredit.analysis.report.page import write_page

__all__ = ["FORMAT", "checked", "write_figures", "write_page"]

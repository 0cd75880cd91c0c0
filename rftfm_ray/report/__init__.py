"""The report of a run: what the records say, as one HTML file."""

from rftfm_ray.report.page import build_report, write_report

__all__ = ["build_report", "write_report"]

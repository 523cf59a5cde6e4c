"""The report: a folder of pages made from records. Free of torch and of the network."""

from shalabench.report.pages import build_report

__all__ = ["build_report"]

"""Output for people: numbers with units, and tables of spectra."""

from anywidth.report.numbers import count, seconds
from anywidth.report.tables import cost_table, files_table, search_table, spectrum_table

__all__ = ["cost_table", "count", "files_table", "search_table", "seconds", "spectrum_table"]

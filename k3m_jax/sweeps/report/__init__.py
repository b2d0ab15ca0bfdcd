"""The report of a grid: from its results file to tables, figures and one page."""

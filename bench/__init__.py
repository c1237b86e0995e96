"""Measures the reconciler beside what a team would do without it. Run by `make bench`; see README.md."""

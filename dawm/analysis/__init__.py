"""Fidelity, statistics, tables, figures and the report."""

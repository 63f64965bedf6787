"""Experiments: a grid of data sets, towers and methods, tuned alike and trained with several seeds → tables and a report."""

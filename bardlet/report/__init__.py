"""Runs as curves: what a page or a plot of them shows."""

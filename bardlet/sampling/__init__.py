"""Beneath sample.py: the choice of a token, and token steps through torch."""

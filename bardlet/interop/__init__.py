"""Weights in from where people have them, and out to where people use them."""

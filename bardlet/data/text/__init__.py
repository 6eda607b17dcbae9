"""Bytes to documents: what an input is, how it is unpacked and decoded, where it comes from."""

"""Bytes in and out: whole files, files of strangers, text on a terminal."""

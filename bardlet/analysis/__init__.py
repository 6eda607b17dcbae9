"""Looks at what a run made: its history and illnesses, and what its texts repeat."""

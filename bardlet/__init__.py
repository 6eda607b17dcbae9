"""bardlet: train a GPT from raw text on the machine you have.

Importing the package does no work; `bardlet.cli` loads what a command needs when it runs.
"""

__version__ = "0.1.0"

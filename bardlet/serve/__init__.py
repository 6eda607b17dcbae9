"""What answers from a model: completions of text, for the command, Python and a server."""

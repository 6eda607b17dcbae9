"""How good a model is by tasks that others set."""

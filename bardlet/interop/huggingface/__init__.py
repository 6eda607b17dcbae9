"""The format of transformers and of its hub: configurations, weights, model cards."""

"""A model as one HTML file: weights, tokenizer, and an engine in JavaScript for any browser."""

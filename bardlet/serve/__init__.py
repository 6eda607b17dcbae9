"""What answers from a model: completions of text, whoever asks for them."""

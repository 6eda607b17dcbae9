"""From raw text to batches: corpus -> tokenizer -> prepare -> dataset -> loader."""

"""Documents to ids and back: every tokenizer, where each comes from, how one is trained."""

"""Ids to batches: the dataset folder, its streams of tokens, and which windows make a batch."""

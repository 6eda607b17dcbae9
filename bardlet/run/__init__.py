"""A run on disk: its folder, its checkpoints, their tensors."""

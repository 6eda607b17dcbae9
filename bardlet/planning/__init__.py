"""What a run will take, before it begins: trials of it, estimates by them, a size to suit."""

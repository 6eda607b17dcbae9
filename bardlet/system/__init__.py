"""What the process runs on: its device, its fellow processes, its memory, its signals."""

"""What makes a GPU faster, or take less of its memory: each with the plain way as its oracle."""

"""What stands around the loop: its log, its guards, when it saves, what it goes on from."""

"""What a user would otherwise write or run, doing the gate's work on the same topics: `make bench-peers`."""

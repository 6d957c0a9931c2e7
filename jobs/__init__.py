"""What a person runs: one file a command, and what they share (see `jobs.cli` for the list)."""

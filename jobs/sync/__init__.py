"""The parts of a sync, which brings a table in line with its source: plan, embed, commit."""

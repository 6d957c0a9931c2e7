"""A table brought in line with its source: planned, embedded, committed in waves."""

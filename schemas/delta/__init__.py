"""The only place that reads and commits tables: Delta Lake, without loss under kills and rivals."""

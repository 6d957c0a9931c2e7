"""Delta Lake tables: all reads and commits of tables are here, safe against kills and other writers."""

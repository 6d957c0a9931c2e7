"""One file a kind of table: its columns, and what its metadata says."""

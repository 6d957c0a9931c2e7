"""One file a kind of table: its columns, and the meaning of its metadata."""

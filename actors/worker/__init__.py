"""The worker: it embeds a window of rows, writes a file of the table, and reports counts."""

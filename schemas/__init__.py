"""Columns, keys, the plan and errors; `tables` has one file a kind of table, `delta` reads and writes them."""

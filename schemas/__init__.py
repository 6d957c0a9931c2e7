"""What embatch writes down: `tables` one file a table, `delta` alone reads and commits them."""

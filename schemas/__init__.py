"""What embatch writes down: one file a table; `store` alone imports deltalake."""

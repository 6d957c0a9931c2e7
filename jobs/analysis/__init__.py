"""What follow-up jobs compute of tables of vectors, and how it is drawn."""

"""Code of the follow-up jobs: nearest neighbours, maps, measures and pictures of tables of vectors."""

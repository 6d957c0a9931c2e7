"""One file a family of models: what turns tokens or pixels into vectors."""

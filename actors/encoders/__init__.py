"""Encoders, which turn tokens or pixels into vectors: one file for each family of models."""

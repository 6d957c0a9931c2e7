"""Readers of model folders and of files of word vectors."""

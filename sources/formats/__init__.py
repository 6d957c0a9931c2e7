"""Formats of files, one file a format."""

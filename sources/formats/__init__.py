"""One file a format of files."""

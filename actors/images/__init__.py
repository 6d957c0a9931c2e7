"""Image files: opened within bounds of size and time, and turned into the pixels that a model takes."""

"""Image files opened within bounds, and made into the pixels that a model takes."""

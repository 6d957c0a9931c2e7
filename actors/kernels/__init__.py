"""Neural networks that take texts of different lengths without padding."""

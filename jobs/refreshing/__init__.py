"""The steps of a refresh, as one file declares them."""

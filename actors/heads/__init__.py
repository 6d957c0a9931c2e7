"""Networks that do more than embed: a classifier of texts, a reader that finds answers."""

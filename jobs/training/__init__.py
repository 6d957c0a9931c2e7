"""Code for training on labelled texts: examples, splits, the trainer."""

"""Training on labels: examples, splits, the trainer."""

"""Networks with a task of their own: classifiers, readers of answers."""

"""What a worker does with a batch of rows: embed a window of them, write a file, report."""

"""The engine: batches by tokens, precision, devices."""

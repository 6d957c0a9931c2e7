"""The engine: it sizes batches by tokens, checks the precision, and knows the device."""

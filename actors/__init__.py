"""Who turns rows into vectors: the models, their encoders, and the engine that plans batches.

Nothing here imports ray: an encoder runs as well in a test, in a notebook or on a GPU box.
"""

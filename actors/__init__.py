"""Models, their encoders, and the engine that runs them in batches: all that turns rows into vectors.

Nothing here imports Ray, so that an encoder also runs in a test, in a notebook or on a GPU machine.
"""

"""One process, one device: Celery consumes, our pool batches, the device thread predicts."""

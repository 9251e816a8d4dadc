"""The handlers that come with the service, one file a task or family. `worker/models.py` picks them by task name."""

"""The handlers that come with the service, one file a task or family. `worker/handler_class.py` picks them by task."""

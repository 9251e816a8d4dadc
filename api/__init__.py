"""The HTTP face: validates, queues, waits, answers. Never imports torch or anything of `worker`."""

VERSION = "0.1.0"

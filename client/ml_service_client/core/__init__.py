"""The client without its sockets: what to send, what an answer means, when to try again. Nothing here reads, sleeps or
waits, but for the files and iterators that a caller hands in; `aio` and `sync` do, each in a few lines."""

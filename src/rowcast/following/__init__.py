"""What following a session takes: bytes to events, answers to changes, endings to the next step.

`events` parses, `token` holds what a client proves itself with, `exchange` asks the server, `policy` decides between
stream and poll and how long to wait, `knowledge` keeps what was told. `rowcast.client` puts them together.
"""

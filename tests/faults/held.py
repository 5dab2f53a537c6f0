"""What a proxy that buffers passes on of an HTTP response: its headers at once, its body when it is whole."""

import re

_NO_BODY = re.compile(rb"HTTP/1\.[01] (1\d\d|204|304) ")


class HeldBody:
    """Tells where the body of a response ends, well enough for a test: it trusts what it is told."""

    def __init__(self) -> None:
        self._seen = b""
        self._is_head = True

    def take(self, data: bytes) -> bytes:
        """Return what a proxy that buffers passes on now."""
        self._seen += data
        passed = b""
        while self._seen:
            if self._is_head:
                head, end, rest = self._seen.partition(b"\r\n\r\n")
                if not end:
                    break
                passed, self._seen = passed + head + end, rest
                self._is_head = bool(_NO_BODY.match(head))
                length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
                self._length = int(length[1]) if length else None
            elif self._length is not None and len(self._seen) >= self._length:
                passed, self._seen = passed + self._seen[: self._length], self._seen[self._length :]
                self._is_head = True
            elif self._length is None and (b"\r\n" + self._seen).endswith(b"\r\n0\r\n\r\n"):
                passed, self._seen, self._is_head = passed + self._seen, b"", True
            else:
                break
        return passed

    def rest(self) -> bytes:
        held, self._seen = self._seen, b""
        return held

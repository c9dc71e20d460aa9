"""What a client did wrong, as OpenAI's API says it."""

from __future__ import annotations

from typing import Any

TYPES = {401: "authentication_error", 429: "rate_limit_error", 500: "server_error", 503: "server_error", 504: "timeout"}


class RequestError(Exception):
    """A request that is answered with an error.

    Args:
        status: of HTTP.
        parameter: of the request that is to blame.
        code: for programs.
    """

    def __init__(self, status: int, message: str, parameter: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.message, self.parameter, self.code = status, message, parameter, code

    def body(self) -> dict[str, Any]:
        """Return the error object."""
        kind = TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.parameter, "code": self.code}}


def bad(parameter: str, message: str, code: str | None = None) -> RequestError:
    """Return an error about one parameter."""
    return RequestError(400, f"`{parameter}` {message}", parameter, code)

"""The limits of a server, and the name that requests may always use."""

from dataclasses import dataclass

LOCAL_HOST = "localhost"


@dataclass(frozen=True)
class Limits:
    """The limits of a server.

    Args:
        max_body: bytes of a body.
        max_characters: characters of all inputs of a request.
        max_rows: rows of one model that wait or are being computed; further requests get 503.
        max_wait: seconds that a request waits for others, to be computed in one batch with them.
        max_new_tokens: tokens that a request may ask for.
    """

    max_body: int = 2**20
    max_characters: int = 200_000
    max_rows: int = 512
    max_wait: float = 0.003
    max_new_tokens: int = 1024

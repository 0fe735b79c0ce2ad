"""What to say of an address at which there is nothing: mostly a client's base URL is not quite right."""

from collections.abc import Sequence

# Their clients add all of the path themselves.
_WHOLE_PATHS = ("/v1/messages", "/api/")


def advice(path: str, known: Sequence[str], origin: str) -> str:
    """Return where to find what a client looks for.

    Args:
        path: the address that it asked.
        known: addresses that there are, such as "/v1/chat/completions".
        origin: of this server, "http://127.0.0.1:8000".
    """
    for place in sorted(known, key=len, reverse=True):
        short = place.removeprefix("/v1")
        if len(short) > 1 and path != place and path.endswith(short):
            base = origin if place.startswith(_WHOLE_PATHS) or short == place else f"{origin}/v1"
            return f"{place} is what there is: set the client's base URL to {base}"
    if path == "/v1" or path.startswith("/v1/"):
        named = ", ".join(place for place in known if place.startswith("/v1/"))
        return f"of OpenAI's API this server has {named}"
    return "/openapi.json lists what there is"

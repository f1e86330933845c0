"""Two answers of a served model beside OpenAI's API: a chat page at `/`, and its health at `/health`.

The page loads nothing from elsewhere, may send requests to this server only, and shows a model's answers as plain text.
Neither reveals anything that a key protects.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

FOLDER = Path(__file__).with_name("page")
HEALTH = "/health"
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/chat.js": ("chat.js", "text/javascript; charset=utf-8"),
    "/chat.css": ("chat.css", "text/css; charset=utf-8"),
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


@dataclass(frozen=True)
class Health:
    """What /health says.

    Attributes:
        model: what clients call it.
        runtime: with its version.
        context: tokens of a conversation with its answer.
        chat: whether the model has a chat template.
        key_required: whether a request needs an API key.
    """

    model: str
    runtime: str
    context: int
    chat: bool
    key_required: bool


@dataclass(frozen=True)
class Static:
    """An answer that needs no model."""

    headers: list[tuple[bytes, bytes]]
    body: bytes


def static_answer(method: str, path: str, health: Health) -> Static | None:
    """The page, one of its files or the health; None where a request is for the API."""
    if method not in ("GET", "HEAD"):
        return None
    if path == HEALTH:
        body, kind = json.dumps({"status": "ok", **asdict(health)}).encode(), "application/json"
    elif path in FILES:
        name, kind = FILES[path]
        body = (FOLDER / name).read_bytes()
    else:
        return None
    headers = {
        "content-type": kind,
        "content-length": str(len(body)),
        "content-security-policy": POLICY,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-store",
    }
    return Static([(n.encode(), v.encode()) for n, v in headers.items()], b"" if method == "HEAD" else body)

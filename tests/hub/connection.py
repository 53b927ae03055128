"""HTTP: reads requests, sends answers, and cuts connections where a fault says so."""

from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from .refusals import RefusedError
from .routes import Handler, Kind, route
from .tokens import Token
from .traffic import Answer, Call, json_answer

if TYPE_CHECKING:
    from .server import Hub, HubServer

# After these the client tries again; it would wait longer each time without a word from the Hub.
_RETRIED = (408, 429, 500, 502, 503, 504)


class Connection(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body go out separately: 40 ms each otherwise

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base's name
        """Nothing: `Hub.requests` is the log."""

    @property
    def _hub(self) -> "Hub":
        return cast("HubServer", self.server).hub

    def _serve(self) -> None:
        # A part of a path may hold an escaped slash: refs%2Fpr%2F1.
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        kind, handler = route(self._hub, self.command, parts)
        fault = self._hub.meet(kind)
        if fault == "cut request":
            self._log(kind, None, len(self._read(half=True)))
            self.close_connection = True
            return
        body = self._read()
        if isinstance(fault, int):
            answer = _refusal(RefusedError(fault, "Internal Error - this Hub was told to fail"))
        else:
            answer = self._answer(handler, body)
        lost = fault in ("lose answer", "cut answer")
        # Before the answer is out: whoever has it finds the request in the log.
        self._log(kind, None if lost else answer.status, len(body))
        if fault != "lose answer":
            self._send(answer, half=fault == "cut answer")
        if lost:
            self.close_connection = True

    def _answer(self, handler: Handler, body: bytes) -> Answer:
        try:
            query = dict(parse_qsl(urlsplit(self.path).query))
            call = Call(self._token(), query, body, self.headers.get("Range"))
            with self._hub.lock:
                return handler(call)
        except RefusedError as refused:
            return _refusal(refused)

    def _token(self) -> Token | None:
        """Who asks. Even for public repositories the Hub refuses a token that it does not know."""
        given = self.headers.get("Authorization")
        if given is None:
            return None
        token = self._hub.tokens.get(given.removeprefix("Bearer "))
        if token is None:
            raise RefusedError(401, "Invalid credentials in Authorization header")
        return token

    def _read(self, *, half: bool = False) -> bytes:
        assert "Transfer-Encoding" not in self.headers, "this Hub reads no chunked bodies"
        length = int(self.headers.get("Content-Length", 0)) // (2 if half else 1)
        body = self.rfile.read(length)
        if len(body) < length:
            raise ConnectionError("the client went away in the middle of a body")
        return body

    def _send(self, answer: Answer, *, half: bool) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[: len(answer.body) // 2] if half else answer.body)

    def _log(self, kind: Kind, status: int | None, bytes_received: int) -> None:
        path = unquote(urlsplit(self.path).path)
        self._hub.log(self.command, path, kind, status, bytes_received)


def _refusal(refused: RefusedError) -> Answer:
    answer = json_answer({"error": refused.message}, refused.status)
    in_a_header = " ".join(refused.message.split()).encode("ascii", "replace").decode()
    headers = {**answer.headers, **refused.headers, "X-Error-Message": in_a_header}
    if refused.code is not None:
        headers["X-Error-Code"] = refused.code
    if refused.status in _RETRIED:
        headers["Retry-After"] = "0"
    return Answer(refused.status, answer.body, headers)

"""Who may ask: named hosts, pages of this server alone, and a token beyond this machine."""

import hmac
import ipaddress
import time
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reslab.disk import read_regular, user_path
from reslab.errors import InputError
from reslab.using.serving.metrics import Metrics

_LOCAL = ("localhost", "127.0.0.1", "::1")
_LONGEST_TOKEN = 4096
_SHORTEST_TOKEN = 16
# A browser asks for these before anybody can type a token, and a health check has none.
WITHOUT_TOKEN = frozenset(
    ("/", "/page.css", "/page.js", "/icon.svg", "/docs", "/openapi.json", "/healthz", "/readyz")
)
HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:;"
        b" connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]


@dataclass(frozen=True)
class Access:
    """hosts: names by which this server may be called, in lower case; token: None where open.

    by_address: whether it listens on all of the machine's addresses, and may be called by each.
    """

    hosts: frozenset[str]
    token: bytes | None = None
    by_address: bool = False


def access_of(
    host: str, allow_host: Sequence[str] = (), token_file: str | None = None, open_: bool = False
) -> Access:
    """Who may ask a server that listens on `host`.

    Raises InputError where anybody on the network could, unless that is said or a token is given.
    """
    token = None if token_file is None else read_token(token_file)
    if not is_local(host) and token is None and not open_:
        raise InputError(
            f"--host {host}: other machines could use this server; give --token-file FILE (a secret"
            " that each request must carry), or --open if anybody may"
        )
    if token is not None and open_:
        raise InputError("--open: for anybody, yet --token-file names a secret; give one of them")
    named = [_host_name(name) for name in allow_host]
    everywhere = host in ("0.0.0.0", "::")
    own = () if everywhere else (host.strip("[]").lower(),)
    return Access(frozenset((*_LOCAL, *own, *named)), token, everywhere)


def _host_name(given: str) -> str:
    """A name as a request's header has it. Raises InputError if it can stand in none."""
    name = given.strip().strip("[]").lower()
    if _address(name) is None:
        try:
            name = name.encode("idna").decode()
        except UnicodeError:
            name = ""
        if not name or set(name) & set("/*:[]"):
            raise InputError(
                f"--allow-host {given}: a name or address alone, such as pictures.example.org"
            )
    return name


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that a text is, if it is one; IPv4's, where IPv6 wraps one."""
    try:
        found = ipaddress.ip_address(name)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def is_local(host: str) -> bool:
    """Whether only this machine can reach a server that listens there."""
    if host.lower() == "localhost":
        return True
    address = _address(host.strip("[]"))
    return address is not None and address.is_loopback


def read_token(name: str) -> bytes:
    """The secret in a file, without blanks around it. Raises InputError if it is none."""
    try:
        token = read_regular(user_path(name), _LONGEST_TOKEN).strip()
    except OSError as error:
        raise InputError(f"--token-file {name}: {error.strerror or error}") from None
    if len(token) < _SHORTEST_TOKEN or not all(33 <= byte <= 126 for byte in token):
        raise InputError(
            f"--token-file {name}: one line of at least {_SHORTEST_TOKEN} letters, digits and signs"
            " is needed, such as `openssl rand -hex 32` prints"
        )
    return token


class Guard:
    """Stands before the application: refuses strangers, counts, and sends the same headers always.

    A name under which a stranger's page reached this server (DNS rebinding) is no host of ours, and
    a stranger's page that posts to it has another origin.
    """

    def __init__(self, app: ASGIApp, access: Access, metrics: Metrics, paths: Sequence[str]):
        self._app = app
        self._access = access
        self._metrics = metrics
        self._paths = frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        began = time.perf_counter()
        status = 0

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        refused = self._refusal(scope)
        try:
            await (refused or self._app)(scope, receive, sent)
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            if status:
                self._metrics.note(path, status, time.perf_counter() - began)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name in headers and name in (b"host", b"origin", b"authorization"):
                return _no(400, f"the header {name.decode()} stands twice")
            headers[name] = value
        host = headers.get(b"host", b"")
        if not self._goes_by(_name_of(host), scope):
            return _no(421, "this server does not go by that name; start it with --allow-host NAME")
        origin = headers.get(b"origin")
        if origin is not None and origin.partition(b"://")[2].lower() != host.lower():
            return _no(403, "the request comes from another site's page")
        if scope["path"] not in WITHOUT_TOKEN and not self._knows(headers.get(b"authorization")):
            return _no(401, "a token is needed: Authorization: Bearer TOKEN", b"Bearer")
        return None

    def _goes_by(self, name: str, scope: Scope) -> bool:
        if name in self._access.hosts:
            return True
        # An address is no name that a stranger could lead here.
        here = _address(scope["server"][0]) if self._access.by_address else None
        return here is not None and _address(name) == here

    def _knows(self, given: bytes | None) -> bool:
        if self._access.token is None:
            return True
        kind, _, token = (given or b"").partition(b" ")
        return kind.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._access.token)


def _name_of(host: bytes) -> str:
    """A Host header without its port, in lower case."""
    text = host.decode("latin-1").lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0]


def _no(status: int, message: str, challenge: bytes | None = None) -> JSONResponse:
    headers = {} if challenge is None else {"www-authenticate": challenge.decode()}
    return JSONResponse({"error": message}, status, headers)

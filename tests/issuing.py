"""An OpenID Connect issuer for the tests: real keys, real tokens, over real HTTP in a thread.

It signs everybody in at once as whom the test says, and checks of its client what an issuer checks.
"""

import base64
import hashlib
import hmac
import html
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, RSAKey

CLIENT: Final = "knownas-tests"
SECRET: Final = "a secret of the tests: 100% + more"  # noqa: S105 - a test's own

RSA: Final = RSAKey.generate_key(2048, {"kid": "rsa", "use": "sig"})
EC: Final = ECKey.generate_key("P-256", {"kid": "ec"})
STRANGER: Final = RSAKey.generate_key(2048, {"kid": "rsa"})
"""Has the name of the issuer's key."""

Sign = Callable[[Mapping[str, Any]], str]


def signed(key: RSAKey | ECKey | OctKey, algorithm: str) -> Sign:
    """Return what signs claims."""
    header = {"alg": algorithm, "kid": key.kid}
    return lambda claims: jwt.encode(header, dict(claims), key, [algorithm])


def signed_by_public_key(claims: Mapping[str, Any]) -> str:
    """Return a token whose secret is what everybody knows: the RSA key, as text."""
    body = _joined({"alg": "HS256", "kid": "rsa"}, claims)
    digest = hmac.digest(RSA.as_pem(private=False), body.encode(), hashlib.sha256)
    return f"{body}.{_encoded(digest)}"


def unsigned(claims: Mapping[str, Any]) -> str:
    """Return a token by the algorithm `none`."""
    return f"{_joined({'alg': 'none', 'kid': 'rsa'}, claims)}."


def _joined(*parts: Mapping[str, Any]) -> str:
    return ".".join(_encoded(json.dumps(part).encode()) for part in parts)


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Issuing:
    """What the issuer does, as a test may change it."""

    def __init__(self, url: str) -> None:
        """Begin at a URL."""
        self.url = url
        self.ends = threading.Event()
        self.begin()

    def begin(self) -> None:
        """Do everything right, for nobody that is known."""
        self.claims: dict[str, Any] = {}
        """What an ID token says beside or instead of what is right; None: it leaves that out."""
        self.sign: Sign = signed(RSA, "RS256")
        self.answers: dict[str, tuple[int, bytes]] = {}
        """What is answered instead, by path."""
        self.told: dict[str, Any] = {}
        """What discovery says instead."""
        self.is_silent = False
        """Whether it takes connections and answers none."""
        self.shows_page = False
        """Whether a person has to follow a link of its own, as at most issuers."""
        self.asked: list[str] = []
        self.codes: dict[str, dict[str, str]] = {}

    def answer(self, path: str, form: Mapping[str, str], basic: str) -> tuple[int, bytes]:
        """Return the status and body for a path, or the status and the address to go to."""
        self.asked.append(path)
        if self.is_silent:
            self.ends.wait(30)
        if path in self.answers:
            return self.answers[path]
        if path == "/authorize":
            return self._authorize(dict(form))
        if path == "/token":
            return self._token(form, basic)
        if path == "/keys":
            others: list[Any] = [{"kty": "AKP", "kid": "new"}, {"kty": "RSA", "kid": "broken"}]
            own = [key.as_dict(private=False) for key in (RSA, EC)]
            return 200, json.dumps({"keys": others + own}).encode()
        told = {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize?tenant=1",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/keys",
        }
        return 200, json.dumps(told | self.told).encode()

    def _authorize(self, asked: dict[str, str]) -> tuple[int, bytes]:
        assert asked["response_type"] == "code"
        assert asked["client_id"] == CLIENT
        assert set(asked["scope"].split()) >= {"openid", "email"}
        assert asked["code_challenge_method"] == "S256"
        code = f"code-{len(self.codes)}"
        self.codes[code] = asked
        back = urlencode({"code": code, "state": asked["state"], "iss": self.url})
        address = f"{asked['redirect_uri']}?{back}"
        if self.shows_page:
            return 200, f'<a href="{html.escape(address)}">I am Ann</a>'.encode()
        return 303, address.encode()

    def _token(self, form: Mapping[str, str], basic: str) -> tuple[int, bytes]:
        pair = urlencode({CLIENT: SECRET}).replace("=", ":")
        by_post = (form.get("client_id"), form.get("client_secret")) == (CLIENT, SECRET)
        by_basic = basic == f"Basic {base64.b64encode(pair.encode()).decode()}"
        wanted = self.told.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        if not (by_post if wanted == ["client_secret_post"] else by_basic):
            return 401, b'{"error": "invalid_client"}'
        asked = self.codes.pop(form["code"], None)
        digest = hashlib.sha256(form["code_verifier"].encode()).digest()
        challenge = _encoded(digest)
        if (
            asked is None
            or asked["code_challenge"] != challenge
            or asked["redirect_uri"] != form["redirect_uri"]
        ):
            return 400, b'{"error": "invalid_grant"}'
        now = int(time.time())
        claims = {
            "iss": self.url,
            "aud": CLIENT,
            "sub": "248289761001",
            "nonce": asked["nonce"],
            "iat": now,
            "exp": now + 300,
            **self.claims,
        }
        token = self.sign({name: value for name, value in claims.items() if value is not None})
        given = {"access_token": "x", "token_type": "Bearer", "id_token": token}
        return 200, json.dumps(given).encode()


def settings_for(folder: Path, url: str) -> dict[str, str]:
    """Return the settings for an issuer."""
    secret = folder / "secret"
    secret.write_text(f"{SECRET}\n", encoding="utf-8")
    return {
        "KNOWNAS_OIDC_ISSUER": url,
        "KNOWNAS_OIDC_CLIENT_ID": CLIENT,
        "KNOWNAS_OIDC_CLIENT_SECRET_FILE": str(secret),
        "KNOWNAS_TRUSTED_PROXIES": "127.0.0.1",
    }


@contextmanager
def issuing(host: str = "127.0.0.1") -> Iterator[Issuing]:
    """Give an issuer, for as long as it is needed; `host` is a name of this machine."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Answer a browser, or the client."""
            parts = urlsplit(self.path)
            self._answer(parts.path, parts.query)

        def do_POST(self) -> None:
            """Answer the client."""
            form = self.rfile.read(int(self.headers["Content-Length"])).decode()
            self._answer(self.path, form)

        def _answer(self, path: str, query: str) -> None:
            form = {name: values[0] for name, values in parse_qs(query).items()}
            status, body = issuer.answer(path, form, self.headers.get("Authorization", ""))
            self.send_response(status)
            if status // 100 == 3:
                self.send_header("Location", body.decode())
            else:
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Content-Type", "text/html" if body[:1] == b"<" else "text/plain")
            self.end_headers()
            if status // 100 != 3:
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        issuer = Issuing(f"http://{host}:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield issuer
        issuer.ends.set()
        server.shutdown()
        thread.join()

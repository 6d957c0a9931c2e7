"""An S3 on this machine for tests, which notes its requests and disturbs some where asked to.

    with running_s3() as bucket:
        with bucket.disturbed(["slow down", "cut answer"], share=0.1, seed=1):
            embed(source, bucket.uri("table"), model, storage_option=bucket.pairs)

The server is moto's, in a process of its own; it checks no signatures.
"""

import contextlib
import io
import json
import random
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import asdict, dataclass, field

KEY, SECRET, REGION = "AKIDOFTHETESTS", "wJalr/K7MDENG+bPxRfiCYofthetests", "us-east-1"
COMMITS = r"PUT .*/_delta_log/\d+\.json"
ERRORS = {
    "slow down": (503, "SlowDown", "Please reduce your request rate."),
    "wrong signature": (403, "SignatureDoesNotMatch", "The request signature does not match."),
    "other region": (301, "PermanentRedirect", "The bucket must be asked at its own endpoint."),
    "unknown key": (403, "InvalidAccessKeyId", "The access key ID does not exist in our records."),
}
DISTURBANCES = {
    **{what: f"answered with {status} {code}" for what, (status, code, _) in ERRORS.items()},
    "cut upload": "the connection ends before the request is done",
    "cut answer": "the request is done, and the connection ends in the middle of the answer",
    "lose answer": "the request is done, and the connection ends without an answer",
    "hang": "nothing happens for an hour",
    "late": "done a tenth of a second later",
    "meet": "done once another one has come, or after two seconds",
    "forget condition": "done as by a store that does not know If-None-Match",
    "meet, forget condition": "both",
}


@dataclass
class Rule:
    """Which requests are disturbed, and how: those whose `METHOD /bucket/key` matches `only`.

    The first `skip` are spared, then a share of them, by seed, as long as `times` lasts.
    """

    what: list[str] = field(default_factory=list)
    share: float = 1.0
    seed: int = 0
    only: str = ""
    skip: int = 0
    times: int | None = None

    def __post_init__(self):
        assert set(self.what) <= set(DISTURBANCES), self.what


@dataclass(frozen=True)
class Bucket:
    """A bucket of a server that listens on a port of this machine."""

    port: int
    name: str = "bucket"

    def uri(self, key):
        return f"s3://{self.name}/{key}"

    @property
    def options(self):
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": REGION,
        }

    @property
    def pairs(self):
        """What `--storage-option` takes."""
        return tuple(f"{name}={value}" for name, value in self.options.items())

    def put(self, key, body):
        self._ask("PUT", f"/{self.name}/{urllib.parse.quote(key)}", body)

    def get(self, key):
        return self._ask("GET", f"/{self.name}/{urllib.parse.quote(key)}")

    def delete(self, key):
        self._ask("DELETE", f"/{self.name}/{urllib.parse.quote(key)}")

    def keys(self, prefix=""):
        """Keys with a prefix, up to a thousand."""
        query = "list-type=2&encoding-type=url&prefix=" + urllib.parse.quote(prefix)
        listed = self._ask("GET", f"/{self.name}?{query}").decode()
        return [urllib.parse.unquote(key) for key in re.findall("<Key>(.*?)</Key>", listed)]

    @contextlib.contextmanager
    def disturbed(self, what, **rule):
        """While this lasts, requests are disturbed as a `Rule` says, and noted from its start."""
        self.forget_seen()
        self._ask("POST", "/~rule", json.dumps(asdict(Rule(what, **rule))).encode())
        try:
            yield
        finally:
            self._ask("POST", "/~rule", json.dumps(asdict(Rule())).encode())

    def seen(self, only=""):
        """Requests since the last `forget_seen`: request, headers, disturbance and status."""
        seen = json.loads(self._ask("GET", "/~seen"))
        return [request for request in seen if re.match(only, request["request"])]

    def forget_seen(self):
        self._ask("POST", "/~seen")

    def _ask(self, method, path, body=None):
        signed = f"AWS4-HMAC-SHA256 Credential={KEY}/20300101/{REGION}/s3/aws4_request, SignedHeaders=host, Signature=0"
        headers = {"Authorization": signed, "Content-Type": "application/octet-stream"}
        url = f"http://127.0.0.1:{self.port}{path}"
        request = urllib.request.Request(url, body, headers, method=method)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
            return answer.read()


@contextlib.contextmanager
def running_s3():
    """A server with an empty bucket, for as long as it is needed."""
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            bucket = Bucket(int(process.stdout.readline()))
            bucket._ask("PUT", f"/{bucket.name}")
            yield bucket
        finally:
            process.kill()


class Disturbing:
    """The server's application behind the rule of the hour; a WSGI application itself."""

    def __init__(self, application):
        self.application = application
        self.seen, self.lock, self.commits = [], threading.Lock(), threading.Lock()
        self._follow(Rule())

    def _follow(self, rule):
        self.rule, self.random, self.n_left = rule, random.Random(rule.seed), rule.times
        self.n_spared = 0
        self.meeting = threading.Barrier(2)

    def __call__(self, environ, start_response):
        if environ["PATH_INFO"].startswith("/~"):
            return self._control(environ, start_response)
        path = urllib.parse.quote(environ["PATH_INFO"].encode("latin-1"))
        query = environ["QUERY_STRING"]
        request = f"{environ['REQUEST_METHOD']} {path}{'?' if query else ''}{query}"
        note = {"request": request, "what": self._choose(request), "status": 0}
        note["headers"] = {k: v for k, v in environ.items() if k.startswith("HTTP_")}
        self.seen.append(note)
        return self._answer(note, environ, start_response)

    def _choose(self, request):
        rule = self.rule
        with self.lock:
            if not rule.what or not re.match(rule.only, request) or self.n_left == 0:
                return ""
            self.n_spared += 1
            if self.n_spared <= rule.skip or self.random.random() >= rule.share:
                return ""
            self.n_left = None if self.n_left is None else self.n_left - 1
            return self.random.choice(rule.what)

    def _answer(self, note, environ, start_response):
        what = note["what"]
        body = _body_of(environ)
        if what == "hang":
            time.sleep(3600)
        if what == "late":
            time.sleep(0.1)
        if what == "cut upload":
            return _cut(environ)
        if what in ERRORS:
            note["status"], code, message = ERRORS[what]
            start_response(f"{note['status']} {code}", [("Content-Type", "application/xml")])
            return [f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()]
        if "meet" in what:
            with contextlib.suppress(threading.BrokenBarrierError):
                self.meeting.wait(2)
        if "forget condition" in what:
            environ.pop("HTTP_IF_NONE_MATCH", None)
        status, headers, answer = self._done(environ, body)
        note["status"] = int(status.split()[0])
        if what == "lose answer":
            return _cut(environ)
        start_response(status, headers)
        if what == "cut answer" and environ["REQUEST_METHOD"] != "HEAD":
            return _half(answer, environ)
        return [answer]

    def _done(self, environ, body):
        """The answer of the server, which looks whether a key is there, and then writes it."""
        import werkzeug.test

        is_commit = re.match(COMMITS, f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
        environ["wsgi.input"] = io.BytesIO(body)
        with self.commits if is_commit else contextlib.nullcontext():
            chunks, status, headers = werkzeug.test.run_wsgi_app(self.application, environ)
            return status, list(headers), b"".join(chunks)

    def _control(self, environ, start_response):
        body = _body_of(environ)
        if environ["PATH_INFO"] == "/~rule":
            self._follow(Rule(**json.loads(body)))
        elif environ["REQUEST_METHOD"] == "POST":
            self.seen.clear()
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(self.seen).encode()]


def _body_of(environ):
    in_chunks = environ.get("wsgi.input_terminated")
    length = -1 if in_chunks else int(environ.get("CONTENT_LENGTH") or 0)
    return environ["wsgi.input"].read(length)


def _half(answer, environ):
    yield answer[: len(answer) // 2]
    yield from _cut(environ)


def _cut(environ):
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    raise ConnectionError("cut on purpose")


def main():
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Handler(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_request(self, *_):
            """What came is in `Disturbing.seen`."""

    application = Disturbing(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Handler)
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()

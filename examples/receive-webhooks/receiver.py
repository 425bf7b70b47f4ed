"""Receive Ledgerline's webhooks: verify the signature, drop repeats, answer 2xx. Python's standard library only.

    WEBHOOK_SECRET=whsec_... python receiver.py 8000

It prints one line of JSON for each event. Run it behind a server that ends TLS.
"""

import base64
import hmac
import json
import os
import sys
import time
from collections import OrderedDict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import ClassVar

TOLERANCE_SECONDS = 300
BODY_BYTES_MAX = 65_536
SEEN_MAX = 100_000


def verify(secrets, headers, body, now_seconds):
    """Return whether one of the secrets signed this request within the last or next five minutes.

    `secrets`: texts that begin with whsec_. `headers`: names in small letters. `body`: the bytes as they came.
    """
    message_id = headers.get("webhook-id", "")
    timestamp = headers.get("webhook-timestamp", "")
    if not message_id or not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 15):
        return False
    if abs(now_seconds - int(timestamp)) > TOLERANCE_SECONDS:
        return False
    signed = message_id.encode() + b"." + timestamp.encode() + b"." + body
    given = [part[3:].encode() for part in headers.get("webhook-signature", "").split() if part.startswith("v1,")]
    for secret in secrets:
        key = base64.b64decode(secret.removeprefix("whsec_"))
        wanted = base64.b64encode(hmac.digest(key, signed, "sha256"))
        if any(hmac.compare_digest(wanted, one) for one in given):
            return True
    return False


class Receiver(BaseHTTPRequestHandler):
    """Answers 204 to events, also to repeated ones, and 400 to all else."""

    secrets = ()
    seen: ClassVar[OrderedDict] = OrderedDict()
    lock = Lock()

    def do_POST(self):
        """Take one event."""
        length = self.headers.get("content-length", "")
        if not length.isdigit() or int(length) > BODY_BYTES_MAX:
            return self.answer(413)
        body = self.rfile.read(int(length))
        headers = {name.lower(): value for name, value in self.headers.items()}
        if not verify(self.secrets, headers, body, time.time()):
            return self.answer(400)
        message_id = headers["webhook-id"]
        with self.lock:  # a real receiver stores the id in the transaction of the event's effect
            if message_id not in self.seen:
                self.seen[message_id] = True
                if len(self.seen) > SEEN_MAX:
                    self.seen.popitem(last=False)
                event = json.loads(body)
                sys.stdout.write(json.dumps({"id": event["id"], "type": event["type"]}) + "\n")
                sys.stdout.flush()
        return self.answer(204)

    def answer(self, status):
        """Answer without a body."""
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_arguments):
        """Write nothing: signatures and bodies do not belong in logs."""


if __name__ == "__main__":
    # Two secrets, separated by a space, while a secret is rotated.
    Receiver.secrets = os.environ["WEBHOOK_SECRET"].split()
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver)
    sys.stdout.write(json.dumps({"port": server.server_port}) + "\n")
    sys.stdout.flush()
    server.serve_forever()

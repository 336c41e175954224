"""A classifier behind a web service: its scores are all that is seen, and all that an audit needs."""

import functools
import json
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from sklearn.linear_model import LogisticRegression

import trustbound as tb


@functools.cache
def service() -> str:
    """The address of a service of one's own, in place of somebody else's: rows in, log-probabilities out, as JSON."""
    train = tb.load_data("digits", split="train")
    classifier = LogisticRegression(max_iter=300).fit(train.inputs.flatten(1), train.labels)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            rows = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            said = json.dumps(classifier.predict_log_proba(np.array(rows)).tolist()).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *arguments: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def scores(inputs: np.ndarray) -> np.ndarray:
    """Arrays in, scores out: this function is the model."""
    asked = json.dumps(inputs.reshape(len(inputs), -1).tolist()).encode()
    with urllib.request.urlopen(urllib.request.Request(service(), asked), timeout=60) as answer:
        return np.array(json.loads(answer.read()))


def main() -> None:
    """The same as `trustbound audit examples/http_service.py:scores --access scores --data digits --threat …`."""
    record = tb.audit(tb.wrap(scores), tb.load_data("digits", limit=60), ["linf:0.1;access=scores"], budget="quick")
    (bracket,) = record.brackets
    print(f"robust accuracy at most {bracket.upper:.0%}; a lower bound cannot exist: {bracket.no_proof}")


if __name__ == "__main__":
    main()

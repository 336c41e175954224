"""A classifier behind a web service: its scores are all that is seen, and all that an audit needs."""

import json
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from sklearn.linear_model import LogisticRegression

import trustbound as tb


def serve() -> ThreadingHTTPServer:
    """A service of one's own in place of somebody else's: rows in, log-probabilities out, both as JSON."""
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
    return server


def main() -> None:
    """Ask the service, and let trustbound ask it."""
    server = serve()
    address = f"http://127.0.0.1:{server.server_port}"

    def scores(inputs: np.ndarray) -> np.ndarray:
        """Arrays in, scores out: this function is the model."""
        asked = json.dumps(inputs.reshape(len(inputs), -1).tolist()).encode()
        with urllib.request.urlopen(urllib.request.Request(address, asked), timeout=60) as answer:
            return np.array(json.loads(answer.read()))

    record = tb.audit(tb.wrap(scores), tb.load_data("digits", limit=60), ["linf:0.1;access=scores"], budget="quick")
    bracket = record.brackets[0]
    print(f"robust accuracy at most {bracket.upper:.0%}; a lower bound cannot exist: {bracket.no_proof}")
    server.shutdown()


if __name__ == "__main__":
    main()

"""A web application whose workers count into the same metrics, all of which GET /metrics shows.

``gunicorn --workers 4 metrics:app``, in this folder, with the path of a server's socket as
FASTMGR_SERVER in the environment, and its key, if it has one, as FASTMGR_AUTHKEY.
"""

import os

import prometheus_client

from fastmgr.contrib import prometheus

prometheus.use(os.environ["FASTMGR_SERVER"], authkey=os.environ.get("FASTMGR_AUTHKEY", "").encode())
answered = prometheus_client.Counter("app_requests", "Requests that were answered.", ["path"])
taken = prometheus_client.Histogram("app_request_seconds", "Time that requests took.")
busy = prometheus_client.Gauge(
    "app_busy_workers", "Workers that answer a request.", multiprocess_mode="livesum"
)
#: What is scraped: one of its own, for the default one has what this worker alone knows.
scraped = prometheus_client.CollectorRegistry()
prometheus.Collector(scraped)


def app(environ, start_response):
    """Answer a request, and count it; or a scrape."""
    if environ["PATH_INFO"] == "/metrics":
        return respond(
            start_response, prometheus_client.CONTENT_TYPE_LATEST,
            prometheus_client.generate_latest(scraped),
        )  # fmt: skip
    with busy.track_inprogress(), taken.time():
        answered.labels(environ["PATH_INFO"]).inc()
        return respond(start_response, "text/plain", b"hello\n")


def respond(start_response, kind, body):
    """Answer that all is well."""
    start_response("200 OK", [("Content-Type", kind), ("Content-Length", str(len(body)))])
    return [body]

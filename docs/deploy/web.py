"""A web application whose workers count together, whichever of them serves a request.

``gunicorn --workers 4 web:wsgi`` or ``uvicorn --workers 4 web:asgi``, in this folder, with the path
of a server's socket as FASTMGR_SERVER in the environment, and its key, if it has one, as
FASTMGR_AUTHKEY.  Each worker connects when it imports this file; one that is forked after that, as
by ``gunicorn --preload``, opens connections of its own.
"""

import os

import fastmgr

manager = fastmgr.SyncManager.from_address(
    os.environ["FASTMGR_SERVER"], authkey=os.environ.get("FASTMGR_AUTHKEY", "").encode()
)
#: The same counter in all workers, by its name. A step is made in shared memory and never waits, so
#: it may be made in an event loop, too.
hits = manager.Counter(name="hits")


def wsgi(environ, start_response):
    """Answer how many requests there were, this one included."""
    body = b"%d\n" % hits.incr()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


async def asgi(scope, receive, send):
    """Answer the same, to a server of ASGI."""
    if scope["type"] != "http":
        return  # `uvicorn` asks whether there is something to do at the start: there is not
    body = b"%d\n" % hits.incr()
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})

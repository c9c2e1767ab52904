"""A mirror of weights on this machine, which does wrong what a test asks for."""

import http.server
import io
import threading
import zipfile


def zip_of(size, fill=b"weights"):
    """A zip file, as those of PyTorch are, of about this size."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("yolov5n/data.pkl", (fill * size)[:size])
    return file.getvalue()


CONTENT = zip_of(700_000)  # several blocks of the downloader


class Server(http.server.ThreadingHTTPServer):
    """A mirror with one file, and what a test makes it do wrong.

    Attributes:
        content: bytes of the file. etag: of the file; "" for none. requests: (path, Range, If-Range) of all so far.
        breaks: for each request in order after how many bytes the connection ends; later ones are whole.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.etag, self.requests, self.breaks = CONTENT, '"1"', [], []
        self.ranges = self.length = True
        self.status, self.headers = 200, {"Content-Type": "application/octet-stream"}
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        asked, condition = self.headers.get("Range"), self.headers.get("If-Range")
        server.requests.append((self.path, asked, condition))
        if server.status != 200:
            asked = None
        start = int(asked[6:-1]) if asked and server.ranges and condition in (None, server.etag) else 0
        if start and start >= len(server.content):
            self.send_response(416)
            self.end_headers()
            return
        self.send_response(206 if start else server.status)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        if server.etag:
            self.send_header("ETag", server.etag)
        if server.length:
            self.send_header("Content-Length", str(len(server.content) - start))
        for item in server.headers.items():
            self.send_header(*item)
        self.end_headers()
        end = server.breaks.pop(0) if server.breaks else None
        self.wfile.write(server.content[start:end])

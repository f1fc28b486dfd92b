"""Stands where the suite of paho-mqtt expects the broker that it was written beside: the port that it
asks for leads to the server under test, and ends every connection when it is shut down."""

import socket
import socketserver
import threading
from types import SimpleNamespace

SERVER = ("127.0.0.1", 1883)
LISTEN_HOST = "127.0.0.1"
COPY_BYTES = 65536


class Way(socketserver.BaseRequestHandler):
    """One connection, copied both ways until either side ends it."""

    def handle(self):
        with socket.create_connection(SERVER) as far:
            self.server.open.update((self.request, far))
            back = threading.Thread(target=copy, args=(far, self.request), daemon=True)
            back.start()
            copy(self.request, far)
            back.join()


def copy(source, target):
    try:
        while some := source.recv(COPY_BYTES):
            target.sendall(some)
    except OSError:
        pass
    end(source)
    end(target)


def end(one):
    try:
        one.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


class Listener(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port):
        self.open = set()
        super().__init__((LISTEN_HOST, port), Way)

    def shutdown(self):
        super().shutdown()
        for one in list(self.open):
            end(one)


listeners = SimpleNamespace(TCPListeners=SimpleNamespace(server=None))


def run(config):
    """Serves on the port of the first line, `listener PORT`, until it is shut down."""
    server = Listener(int(config[0].split()[1]))
    listeners.TCPListeners.server = server
    server.serve_forever()
    server.server_close()

"""A coordinator that answers who looks, with pictures made by hand, one after another."""

import threading

from zflow.net.control import ControlServer
from zflow.net.sockets import Sockets
from zflow.paths import RunDirectory, StateDirectory, run_directory_of
from zflow.state.runs import RunLock
from zflow.wire.control import Look

TURN_S = 0.02


class Answering:
    """`with Answering(state, pictures, environment):` the run is running and answers; the last
    picture is given again and again. silent: it does not answer."""

    def __init__(self, state: StateDirectory, pictures, environment, *, silent=False):
        self._place = RunDirectory(run_directory_of(state.root, environment))
        self._state = state
        self._pictures = list(pictures)
        self._silent = silent
        self._ended = threading.Event()
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self):
        self._lock = RunLock(self._state)
        self._place.make()
        self._thread.start()
        assert self._up.wait(10)
        return self

    def __exit__(self, *_exception):
        self._ended.set()
        self._thread.join()
        self._lock.release()

    def _serve(self):
        sockets = Sockets()
        server = ControlServer((sockets, self._place.control))
        self._up.set()
        while not self._ended.is_set():
            server.wait(TURN_S)
            for peer, message in server.receive():
                if isinstance(message, Look) and not self._silent:
                    server.send(peer, self._pictures[0])
                    self._pictures = self._pictures[1:] or self._pictures
        sockets.close_all()

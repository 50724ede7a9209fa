"""How a person stops a program, or lets it rest. Standard library only: it is there at once."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence

# Ask for an orderly stop; batch systems warn with SIGUSR1. Windows has neither that nor SIGHUP.
STOP_SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
    if hasattr(signal, name)
)

# A wrapper or a closing terminal may deliver one request twice.
REPEAT_SECONDS = 0.5

# In the environment of a program that is to stop when its standard input ends, because whoever
# holds the other end of that pipe has died.
STOP_WITH_INPUT = "A3C_STOP_WITH_INPUT"


class StopSignal:
    """Ctrl-C and SIGTERM ask for an orderly stop; a second Ctrl-C ends the program at once.

    Installed explicitly, because the background jobs of a shell script start with SIGINT ignored.
    A hang-up stops too, unless it was ignored when the program started (nohup).

    at_once: the first one ends the program, too, with a line and this exit code; as long as there
    is nothing to save.
    """

    def __init__(self, at_once: bool = False, code: int = 0) -> None:
        self.received = False
        self.at_once, self.code = at_once, code
        self.first = 0.0  # when
        self.children: Sequence = ()  # processes that a second Ctrl-C ends
        self.on_stop: Callable[[], None] | None = None  # what the first one does as well
        self.before_exit: Callable[[], None] | None = None  # what a second Ctrl-C does as well

    def install(self) -> "StopSignal":
        for number in STOP_SIGNALS:
            ignored = signal.getsignal(number) is signal.SIG_IGN
            if not (ignored and number.name == "SIGHUP"):
                signal.signal(number, self._handle)
        if os.environ.pop(STOP_WITH_INPUT, ""):
            threading.Thread(target=_stop_with_input, daemon=True).start()
        return self

    @contextlib.contextmanager
    def leaving(
        self,
        restore: Callable[[], None],
        pause: Callable[[], None] = lambda: None,
        go_on: Callable[[], None] = lambda: None,
    ) -> Iterator[None]:
        """While it lasts, a second Ctrl-C and Ctrl-Z give the terminal back in its ordinary state.

        restore: does that, from a signal handler.
        pause, go_on: what Ctrl-Z does as well, and what is done when the program goes on after it.
        """

        def suspend(number, frame):
            restore()
            pause()
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)  # here the program stops and, some time later, goes on
            signal.signal(number, suspend)
            go_on()

        self.before_exit = restore
        number = getattr(signal, "SIGTSTP", None)  # Windows has none
        before = signal.getsignal(number) if number else signal.SIG_IGN
        if before is not signal.SIG_IGN:
            signal.signal(number, suspend)
        try:
            yield
        finally:
            if before is not signal.SIG_IGN:
                signal.signal(number, before)
            self.before_exit = None

    @contextlib.contextmanager
    def heard_anywhere(self) -> Iterator[None]:
        """While it lasts, what ends the program at once does so although the main thread waits in
        code that is not Python's, where no handler runs: a second Ctrl-C, and, as `at_once`, any
        signal."""
        read, write = os.pipe()
        os.set_blocking(write, False)
        before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        listener = threading.Thread(target=self._listen, args=(read,), daemon=True)
        listener.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            os.close(write)
            listener.join()

    def _listen(self, read: int) -> None:
        first = 0.0
        while number := os.read(read, 1):
            if number[0] not in STOP_SIGNALS:
                continue
            now = time.monotonic()
            time.sleep(0.1)  # the handler comes first where it can
            if self.at_once:
                self._end()
            if number[0] == signal.SIGINT and 0 < first < now - REPEAT_SECONDS:
                self._end_now(128 + signal.SIGINT)
            first = first or now
        os.close(read)

    def _end(self) -> None:
        os.write(2, b"stopped before anything had begun\n")
        os._exit(self.code)  # an exception in the middle of loading a C++ library would abort

    def _handle(self, number, frame) -> None:
        now = time.monotonic()
        if self.at_once:
            self._end()
        if not self.received:
            self.received, self.first = True, now
            if self.on_stop:
                self.on_stop()
        elif number == signal.SIGINT and now - self.first > REPEAT_SECONDS:
            self._end_now(128 + number)

    def _end_now(self, code: int) -> None:
        for child in self.children:
            with contextlib.suppress(ValueError):  # it is being replaced, and closed already
                child.kill()
        if self.before_exit:
            self.before_exit()
        os._exit(code)


def _stop_with_input() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)

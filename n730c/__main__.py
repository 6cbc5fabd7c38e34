"""The entry point: ``n730c``, ``python -m n730c``. However a command ends, it is one line and an exit code (CONTRACT).

Nothing heavy is imported before the signals are caught, so that Ctrl-C during the imports ends in one line too.
"""

from __future__ import annotations

import io
import os
import signal
import sys

TYPE_CHECKING = False  # importing typing itself would take time in which Ctrl-C is not caught yet
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn


class _Closed(io.TextIOBase):
    """Stands for a stdout that was closed before we began: Python's own print would do nothing and call it success."""

    def write(self, _: str) -> int:
        raise OSError(None, "it is closed", "stdout")


_AGAIN = 10  # seconds after which an interrupt that some library has swallowed is raised once more


class _Interrupts:
    """Ctrl-C, SIGTERM and SIGHUP raise KeyboardInterrupt, so that everything is cleaned up, and are remembered.

    C extensions turn the exception into others or swallow it, and destructors drop it.
    """

    def __init__(self) -> None:
        self.seen = False
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number is not None and signal.getsignal(number) != signal.SIG_IGN:  # nohup and shells set that
                signal.signal(number, self._stop)
        sys.unraisablehook = self._dropped

    def _stop(self, _number: int, _frame: FrameType | None) -> NoReturn:
        self.seen = True
        if hasattr(signal, "setitimer"):  # Windows has none
            signal.signal(signal.SIGALRM, self._stop)
            signal.setitimer(signal.ITIMER_REAL, _AGAIN)
        raise KeyboardInterrupt

    def over(self) -> None:
        """The command has ended; nothing is raised any more."""
        if self.seen and hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _dropped(self, what: sys.UnraisableHookArgs) -> None:
        if isinstance(what.exc_value, KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        else:
            sys.__unraisablehook__(what)


def main() -> None:
    """Exit 0 done, 2 a wrong command line, 1 anything else that a user can cause."""
    interrupts = _Interrupts()
    try:
        _open_standard_streams()
        from n730c.cli import run

        run(sys.argv[1:])
        sys.stdout.flush()
    except SystemExit as stop:
        if not stop.code:
            _flush_or_fail()
        raise
    except KeyboardInterrupt:
        interrupts.over()
        _fail(_INTERRUPTED)
    except BrokenPipeError:
        _end()  # whoever read our stdout has seen enough: `n730c inspect … | head`
    except BaseException as error:
        interrupts.over()
        _fail(_INTERRUPTED if interrupts.seen else _line(error))


_INTERRUPTED = "interrupted. No unfinished file is left; run the same command again."


def _open_standard_streams() -> None:
    """A closed standard stream must not become the number of a file opened later."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    if sys.stdout is None:
        sys.stdout = _Closed()


def _flush_or_fail() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _end()
    except OSError as error:
        _fail(_line(error))


def _line(error: BaseException) -> str:
    """What is printed for an exception."""
    from n730c.errors import N730Error, UsageError

    if isinstance(error, N730Error):
        return str(error)
    if isinstance(error, OSError):
        where = error.filename or "stdout"
        return str(
            UsageError(
                f"cannot read or write {where}",
                found=error.strerror or str(error),
                hint="Check its path, its permissions and its disk.",
            )
        )
    if os.environ.get("N730C_DEBUG"):
        raise error
    lines = str(error).splitlines() or [""]
    hint = "This is a fault of n730c; run again with N730C_DEBUG=1 for the details to report."
    return str(N730Error(f"internal error: {type(error).__name__}: {lines[0]}", hint=hint))


def _fail(message: str) -> NoReturn:
    print(f"n730c: error: {message}", file=sys.stderr, flush=True)
    _end()


def _end() -> NoReturn:
    # What stdout still holds is not wanted any more, and would raise again where Python flushes it at the end.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    sys.exit(1)


if __name__ == "__main__":
    main()

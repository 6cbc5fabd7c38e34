"""For all tests."""

from __future__ import annotations

import signal

# What was begun in the background ignores these, and so would the programs that the tests start and interrupt; a
# program that is started takes back what is caught here.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, lambda *_: None)

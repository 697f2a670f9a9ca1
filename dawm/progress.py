"""Progress of long jobs: one line of step, rate since the last line and time left every few seconds, fit for a log."""

from __future__ import annotations

import sys
import time


class Progress:
    """Prints to standard error, at most every `interval` seconds and once at the end."""

    def __init__(self, what: str, total: int, start: int = 0, interval: float = 5.0) -> None:
        self.what, self.total, self.interval = what, total, interval
        self.step = self.first = start
        self.told = start
        self.began = self.printed = time.monotonic()

    def advance(self, count: int = 1, note: str = "") -> None:
        self.step += count
        if self.step < self.total and count < 32 and self.step % 32:
            return  # looking at the clock costs more than a simulator's small step
        now = time.monotonic()
        if now - self.printed >= self.interval or self.step >= self.total:
            recent = (self.step - self.told) / max(now - self.printed, 1e-9)
            whole = (self.step - self.first) / max(now - self.began, 1e-9)
            left = (self.total - self.step) / max(whole, 1e-9)
            self.printed, self.told = now, self.step
            share = 100 * self.step // max(self.total, 1)
            line = f"{self.what}: {self.step}/{self.total} ({share} %), {recent:,.0f}/s, {clock(left)} left"
            print(f"{line}{', ' if note else ''}{note}", file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

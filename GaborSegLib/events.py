"""What long work says while it runs: events, each a dictionary with the key `event`.

`progress` (stage, done, total), `epoch` (one row of metrics.csv: loss, scores, speed, time left), `warning` (message;
`kind` where a program should know it, see `protocol.NOT_T1`), `result` (what was made and where) and `error` (code,
message). Library functions take a callable `report(event)`; a terminal shows them to a person, and with `--json` they
go to standard output, one JSON object a line, for a program such as the Slicer panel.
"""

import json
import sys

from .protocol import printable


def say(text, file=None):
    """Print a line, or the lines of a table; what a terminal would obey is shown as escapes."""
    print("\n".join(map(printable, str(text).split("\n"))), file=file, flush=True)


def silent(event):
    """Report nothing."""


def json_lines(event):
    """Write an event as one line of JSON to standard output; a message in it is a line that can be shown."""
    if "message" in event:
        event = {**event, "message": printable(event["message"])}
    sys.stdout.write(json.dumps(event, allow_nan=False) + "\n")
    sys.stdout.flush()


class Terminal:
    """Show events to a person: progress as a bar on standard error, the rest as lines there."""

    def __init__(self):
        self._bar = None

    def __call__(self, event):
        kind = event["event"]
        if kind == "progress":
            self._progress(**{key: event[key] for key in ("stage", "done", "total")})
        elif kind == "epoch":
            self._line(_epoch_line(event))
        elif kind == "warning":
            self._line(f"warning: {printable(event['message'])}")

    def close(self):
        """End the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _progress(self, stage, done, total):
        from tqdm import tqdm

        if self._bar is None or self._bar.desc != stage or self._bar.total != total:
            self.close()
            form = "{desc} |{bar}| {n_fmt}/{total_fmt} {remaining}"
            self._bar = tqdm(total=total, leave=False, disable=None, bar_format=form)
            self._bar.desc = stage
        self._bar.update(done - self._bar.n)
        if done >= total:
            self.close()

    def _line(self, text):
        self.close()
        say(text, sys.stderr)


def _epoch_line(event):
    dice = event.get("dice_mean")
    score = "" if dice is None else f"  validation Dice {dice:.4f}"
    left = event.get("seconds_left")
    rest = f", {_duration(left)} left" if left else ""
    return f"epoch {event['epoch']}/{event['epochs']}  loss {event['loss']:.4f}{score}  {event['seconds']:.0f} s{rest}"


def _duration(seconds):
    """Seconds as a person says it: 50 s, 12 min, 3 h 5 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"

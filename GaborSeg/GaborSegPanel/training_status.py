"""How a training run stands, in words."""

import socket

from slicer.i18n import tr as _

from .training import FAILED, FINISHED, RUNNING, STOPPED
from .worker import LAST_LINES


def status(run):
    """How a `TrainingRun` stands, as a text; its first line says the most."""
    if run.state == RUNNING:
        return _running(run)
    if run.state == FINISHED:
        return _("Finished after {count} epochs{best}.").format(count=len(run.rows), best=_best(run))
    if run.state == STOPPED:
        text = _("Stopped in epoch {epoch} of {count}{best}.") if run.epochs else _("Stopped before it began.")
        epoch = min(len(run.rows) + 1, run.epochs)
        return text.format(epoch=epoch, count=run.epochs, best=_best(run)) + _way_on(run)
    if run.state == FAILED:
        return run.error
    return _how_it_died(run) + _way_on(run)


def duration(seconds):
    """Seconds as a person says it."""
    if seconds < 60:
        return _("{count} s").format(count=round(seconds))
    hours, minutes = divmod(round(seconds / 60), 60)
    return (
        _("{hours} h {minutes} min").format(hours=hours, minutes=minutes)
        if hours
        else _("{count} min").format(count=minutes)
    )


def _running(run):
    parts = []
    if run.owner.get("host") not in (None, socket.gethostname()):
        parts.append(_("On the computer {host}, process {pid}.").format(**run.owner))
    parts.append(_("Stopping after this step...") if run.stopping else _what_is_done(run))
    left = None if run.stopping else run.seconds_left()
    if left is not None:
        parts.append(_("About {time} left.").format(time=duration(left)))
    return " ".join(parts)


def _what_is_done(run):
    if run.step is None:
        return _("At work...") if run.rows else _("Starting...")
    stage, done, total = run.step
    if run.epoch_under_way:
        return _("Epoch {epoch} of {count}, step {done} of {total}.").format(
            epoch=run.epoch_under_way, count=run.epochs, done=done, total=total
        )
    if run.epoch:
        return _("Epoch {epoch} of {count}, validation.").format(epoch=run.epoch, count=run.epochs)
    return _("{stage}, {done} of {total}...").format(stage=stage, done=done, total=total)


def _best(run):
    best = run.rows[-1]["best_dice"] if run.rows else None
    if best is None:
        return ""
    return _("; best validation Dice {dice} in epoch {epoch}").format(
        dice=f"{best:.3f}", epoch=int(run.rows[-1]["best_epoch"])
    )


def _way_on(run):
    if run.can_resume:
        return " " + _("Resume goes on from its last snapshot.")
    if run.has_snapshot:
        return " " + _("It was started elsewhere; go on with it there, by --resume.")
    return " " + _("Nothing was saved yet; start it again.")


def _how_it_died(run):
    if run.disk_is_full:
        return _("{folder}: the disk is full, and the training ended; make room on it.").format(folder=run.folder)
    text = _(
        "The training ended without saying why: its process was ended from outside (as systems do when memory runs "
        "out), or the computer was switched off."
    )
    last = "\n".join(run.log[-LAST_LINES:])
    return text + (" " + _("Its last lines:") + f"\n{last}\n" if last else "")

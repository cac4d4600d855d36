"""What is there to compute with: `gaborseg environment`."""

from ..events import say
from ..protocol import DONE, REQUIREMENTS, RESULT


def add_arguments(parser):
    """It has none."""


def run(options, report):
    """Show what is installed and which devices there are."""
    from ..environment import environment

    found = environment()
    if options.json:
        report({"event": RESULT, **found})
        return DONE
    say(f"Python {found['python']}, {found['executable']}")
    for name, version in found["versions"].items():
        wanted = f", {REQUIREMENTS[name]} or later is needed" if name in found["missing"] else ""
        say(f"  {name:<12} {version or 'not installed'}{wanted}")
    for device in found["devices"]:
        say(f"  {device['id']:<12} {device['name']}, {device['free_mib']} of {device['total_mib']} MiB free")
    return DONE

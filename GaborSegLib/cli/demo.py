"""A first look: `gaborseg demo` segments a real scan and writes everything that can be written of it."""

import time
from pathlib import Path

from ..errors import GaborSegError
from ..events import say
from ..protocol import DONE, RESULT
from .arguments import WEIGHTS
from .segment import write

FILES = {
    "labels": "labels.nii.gz",
    "seg_nrrd": "labels.seg.nrrd",
    "volumes": "volumes.csv",
    "overview": "overview.png",
}


def add_arguments(parser):
    text = "a T1 scan; default: the ICBM152 average brain that nilearn ships"
    parser.add_argument("scan", nargs="?", metavar="SCAN", help=text)
    parser.add_argument("--output", "-o", default="demo", metavar="DIR", help="folder (default: demo)")
    parser.add_argument("--weights", default="mixed", metavar="W", help=WEIGHTS)


def run(options, report):
    """Segment a real scan, and write everything that can be written of it."""
    started = time.monotonic()
    from ..files import check_output, keep_inputs, split_extension
    from ..inference.segmenter import Segmenter
    from ..inference.volumes import volumes_table
    from ..scans.reading import read_image

    files = {kind: Path(options.output) / name for kind, name in FILES.items()}
    keep_inputs(files.values(), [path for path in (options.scan, options.weights) if path])
    for file in files.values():
        check_output(file, (split_extension(file)[1],))
    image = read_image(options.scan) if options.scan else icbm152()
    result = write(Segmenter(options.weights).segment(image, report), image, files)
    if options.json:
        report({"event": RESULT, **result})
        return DONE
    say(volumes_table(result["volumes"], result["quality"], result["sides"], result["icv"]))
    total = time.monotonic() - started
    say(f"\n{result['provenance']['seconds']:.1f} s to segment, {total:.1f} s with pictures and start")
    say("\n".join(f"wrote {file}" for file in files.values()))
    return DONE


def icbm152():
    """The ICBM152 2009a T1 average at 1 mm, brain only, as nilearn ships it; an `Image`.

    Raises:
        GaborSegError: nilearn is not installed.
    """
    try:
        from nilearn.datasets import load_mni152_template
    except ImportError as error:
        raise GaborSegError(
            f"the average brain cannot be read ({error}); install it by `pip install nilearn`, or name a scan of your "
            "own: gaborseg demo SCAN"
        ) from error
    from ..scans.image import Image

    template = load_mni152_template(resolution=1)
    return Image(template.get_fdata(dtype="float32"), template.affine, "ICBM152 2009a (nilearn)")

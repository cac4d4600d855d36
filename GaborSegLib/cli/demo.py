"""Segments one real scan and writes everything that can be written of it: what `make demo` runs."""

import argparse
import sys
import time
from pathlib import Path

from ..errors import GaborSegError
from ..events import Terminal


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scan", nargs="?", help="a T1 scan; default: the ICBM152 average brain that nilearn ships")
    parser.add_argument("--output", default="demo", help="folder (default: demo)")
    parser.add_argument("--weights", default="mixed")
    options = parser.parse_args()
    try:
        _demo(options.scan, Path(options.output), options.weights)
    except GaborSegError as error:
        sys.exit(f"gaborseg: {error}")


def _demo(scan, folder, weights):
    started = time.monotonic()
    from ..inference.segmenter import Segmenter, read_image
    from ..inference.volumes import volumes_table

    image = read_image(scan) if scan else icbm152()
    result = Segmenter(weights).segment(image, Terminal())
    files = [folder / name for name in ("labels.nii.gz", "labels.seg.nrrd", "volumes.csv", "overview.png")]
    result.save(files[0])
    result.save(files[1])
    result.save_volumes(files[2])
    result.save_overview(files[3], image)
    print(volumes_table(result.volumes, result.quality))
    total = time.monotonic() - started
    print(f"\n{result.provenance['seconds']:.1f} s to segment, {total:.1f} s with pictures and start")
    print("\n".join(f"wrote {file}" for file in files))


def icbm152():
    """The ICBM152 2009a T1 average at 1 mm, brain only, as nilearn ships it; an `Image`."""
    from nilearn.datasets import load_mni152_template

    from ..scans.image import Image

    template = load_mni152_template(resolution=1)
    return Image(template.get_fdata(dtype="float32"), template.affine, "ICBM152 2009a (nilearn)")


if __name__ == "__main__":
    main()

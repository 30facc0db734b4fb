"""Makes the segmenter's patches: ``python -m onnx_models.training.segmenter_generator phantom --count 300``.

They are written to ``build/training/segmenter``; run again it goes on where it ended. Sources: ``phantom``, ``shapes``
(needs the real data beside the project) and ``held-out`` (phantoms of wider ranges and other seeds, not trained on).
"""

from __future__ import annotations

import argparse

from onnx_models.training.phantom import EVALUATION
from onnx_models.training.segmenter_data import FOLDER, PER_PATIENT, Patch, phantom_patches, write
from onnx_models.training.segmenter_shapes import shape_patches

PHANTOM_SEED, HELD_OUT_SEED, SHAPE_SEED = 50_000_000, 60_000_000, 70_000_000


def patches_of(source: str, number: int) -> list[Patch]:
    """`PER_PATIENT` patches of a source; the same number gives the same ones."""
    if source == "phantom":
        return phantom_patches(PHANTOM_SEED + number)
    if source == "held-out":
        return phantom_patches(HELD_OUT_SEED + number, EVALUATION)
    return shape_patches(SHAPE_SEED + number, PER_PATIENT)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m onnx_models.training.segmenter_generator", description=__doc__)
    parser.add_argument("source", choices=("phantom", "shapes", "held-out"))
    parser.add_argument("--count", type=int, default=300, help="number of patches")
    options = parser.parse_args(arguments)
    for number in range(-(-options.count // PER_PATIENT)):
        folder = FOLDER / ("held_out" if options.source == "held-out" else "patches")
        path = folder / f"{options.source}_{number:05}.npz"
        if not path.is_file():
            write(path, patches_of(options.source, number))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Memory grows with the number of images by little more than their names, captions and hashes."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.benchmarks.scale import COCO_TRAIN

ROOT = Path(__file__).parents[2]
SMALL, LARGE = 1000, 6000
# MiB for COCO's training images, of the 2 GiB that they may take; about 500 were measured (docs/caches.md).
MOST = 1024
PROGRAM = """
import sys
from pathlib import Path
from tests.data.benchmarks.scale import whole_way
stages = whole_way(Path(sys.argv[1]), int(sys.argv[2]))
print(max(stage.peak + stage.workers for stage in stages))
"""


def peak(folder: Path, num_images: int) -> float:
    """MiB, in a process of its own: this one's memory has been in use for other things."""
    command = [sys.executable, "-c", PROGRAM, str(folder), str(num_images)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_cocos_images_would_fit_into_memory(tmp_path):
    per_image = (peak(tmp_path, LARGE) - peak(tmp_path, SMALL)) / (LARGE - SMALL)
    assert per_image * COCO_TRAIN < MOST

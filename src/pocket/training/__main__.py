"""Trains the pocket, stage by stage.

python -m src.pocket.training vae --work .cache/pocket
"""

import argparse
import logging
from pathlib import Path

from src.pocket.training.pipeline import STAGES, Workshop


def main() -> None:
    """Command line: runs one stage; what it needs of earlier ones lies in the work folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=list(STAGES))
    parser.add_argument("--work", type=Path, default=Path(".cache/pocket"), help="checkpoints and results")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    STAGES[arguments.stage](Workshop(arguments.work))


if __name__ == "__main__":
    main()

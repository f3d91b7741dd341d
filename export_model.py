"""Checkpoint in, bundle out. `python export_model.py --help` explains the options."""

import sys

from export.cli import main

if __name__ == "__main__":
    sys.exit(main())

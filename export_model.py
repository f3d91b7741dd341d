"""Checkpoint in, bundle out. `python export_model.py --help` explains the options."""

import sys

from runtime.door import entered

if __name__ == "__main__":
    sys.exit(entered("export_model.py", "export.cli", install="pip install '.[export]'"))

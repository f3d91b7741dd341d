"""Record one rung of the parity ladder where it runs: `python -m runtime.record --help`."""

import sys

from runtime.door import entered

if __name__ == "__main__":
    sys.exit(entered("python -m runtime.record", "runtime.commands.record", install="pip install '.[onnxruntime]'"))

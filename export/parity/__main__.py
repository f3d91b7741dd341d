"""`python -m export.parity`: does a bundle compute what its checkpoint computes?"""

import sys

from runtime.door import entered

if __name__ == "__main__":
    install = "pip install '.[onnxruntime,export,reference,eval]'"
    sys.exit(entered("python -m export.parity", "export.parity.cli", install=install))

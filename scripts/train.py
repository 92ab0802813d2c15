"""`rlcredit train` as a script, for `accelerate launch scripts/train.py --config ...`."""

import sys

from rlcredit.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))

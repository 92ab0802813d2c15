"""`python -m rlcredit`, for `accelerate launch -m rlcredit evaluate ...`."""

import sys

from rlcredit.cli import main

sys.exit(main())

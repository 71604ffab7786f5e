"""`python -m testnet.cli` is `rolemesh`."""

import sys

from testnet.cli import main

sys.exit(main())

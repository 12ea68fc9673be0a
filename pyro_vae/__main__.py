"""`python -m pyro_vae` is the command `pyro-vae`."""

import sys

from .cli import main

sys.exit(main())

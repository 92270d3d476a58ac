"""Makes `python -m keras_e2e` the keras-e2e command."""

import sys

from keras_e2e.experiments.cli import main

if __name__ == "__main__":
    sys.exit(main())

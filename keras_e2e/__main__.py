"""Makes `python -m keras_e2e` the keras-e2e command."""

from keras_e2e.experiments.cli import main

main()

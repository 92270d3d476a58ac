"""Files of each kind of model, as a version saved them."""

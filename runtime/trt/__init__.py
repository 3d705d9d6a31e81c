"""TensorRT plans: recorded, checked, loaded, run; imports ``runtime``'s ground alone."""

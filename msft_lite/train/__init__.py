"""Training: one optimizer step at a time, as a pure function of weights, moments and rows."""

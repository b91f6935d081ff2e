"""Models: loading, low-rank adapters, the answer-only loss, sizes, trainable weights."""

"""What a training step needs in memory, told before it is run."""

"""Evaluation engines: greedy generation with weights that are swapped while it stays up."""

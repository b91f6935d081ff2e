"""From files to token ids: sources, splits, prompts, grading and the order of training rows."""

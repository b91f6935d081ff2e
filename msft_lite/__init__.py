"""Multi-task fine-tuning that drops each task when it starts to over-fit.

A map, from the outside in; a module imports only from those below it.

- `cli`: the command line. It parses, calls and prints.
- `run`: the loop of a method, the roller that executes its requests, `session`, `plan`.
- `engine`: generates the answers that are graded, through vLLM or torch.
- `snapshot`: stores the trainable weights of every point that may still be asked for.
- `train`: optimizer steps.
- `model`: loading, low-rank adapters, the loss.
- `data`: from files of rows to batches of token ids.
- `report`: reads a ledger and says what happened.  `methods`: decide what to train next.
- `ledger`: the record of a run, from which it is resumed.
- `recipe`: the file that describes a run.
- `core`: the vocabulary of methods and runner.
- `errors`: everything that a user can be told.
"""

from __future__ import annotations

__version__ = "0.1.0"

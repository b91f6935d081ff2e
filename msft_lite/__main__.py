"""`python -m msft_lite` is `msft-lite`."""

from __future__ import annotations

from msft_lite.cli import main

if __name__ == "__main__":
    main()

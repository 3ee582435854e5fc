"""`python -m fm4npp`, which launchers of several processes can start."""

from __future__ import annotations

from fm4npp.cli import main

if __name__ == "__main__":
    main()

"""What `python -m slurmbridge.cli` runs."""

from slurmbridge.cli import main

if __name__ == "__main__":
    main()

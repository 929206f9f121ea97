"""slurmbridge: runs programs on sensitive data, sealed and traced, on an existing Slurm cluster."""

__version__ = "0.1.0"

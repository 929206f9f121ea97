"""What mpi4py makes of two ranks."""

import sys

from mpi4py import MPI

total = MPI.COMM_WORLD.allreduce(MPI.COMM_WORLD.rank + 1)
if MPI.COMM_WORLD.rank == 0:
    sys.stdout.write(f"{MPI.COMM_WORLD.size} {total}\n")

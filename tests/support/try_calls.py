"""Run under sbseal, by any Python: makes system calls and prints the error that each gave.

Each argument is the number of a call and its arguments; 0 is printed for what succeeded.
"""

import ctypes
import os
import sys

libc = ctypes.CDLL(None, use_errno=True)
for line in sys.argv[1:]:
    number, *arguments = (ctypes.c_long(int(word)) for word in line.split())
    ctypes.set_errno(0)
    result = libc.syscall(number, *arguments)
    if result == 0 and number.value in {56, 220} and len(arguments) == 5:
        os._exit(0)  # the child of clone
    os.write(1, b"%d\n" % (ctypes.get_errno() if result < 0 else 0))

"""The Compute Context: what is prepared for one Process and seen by it alone.

<contexts>/<process id>/
    command.list  environment.list   what runs, each item ended by NUL
    input/  code/                    staged, bound read-only
    output/  tmp/                    made by the job, bound writable
    claim                            a link naming the one job that may work here
    stdout.txt  stderr.txt           what the program printed
    trace.zst                        strace's record
    exit_code  refused  job.log      what the script left for the bridge
"""

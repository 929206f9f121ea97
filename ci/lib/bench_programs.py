"""The programs that ci/bench runs traced and untraced. Each prints `took NAME MICROSECONDS`."""

# Any command, with the time of its start and end.
TIMED = """
begun=$EPOCHREALTIME
"$@" || exit
ended=$EPOCHREALTIME
echo "took program $((${ended/./} - ${begun/./}))"
"""

# Python's own loop, arrays, and memory that comes and goes: about two seconds.
COMPUTE = """
import time, numpy
begun = time.perf_counter()
sum(number * number % 7 for number in range(8_000_000))
for _ in range(20):
    array = numpy.random.default_rng(7).random((600, 600))
    numpy.linalg.eigvalsh(array + array.T)
print("took program", int((time.perf_counter() - begun) * 1e6))
"""

# Files are opened and closed by Python's open(), by its os.open(), and by C.
OPENS = """
import os, shutil, subprocess, sys, time
count = int(sys.argv[1])

def builtin(path):
    for _ in range(count):
        open(path).close()

def raw(path):
    for _ in range(count):
        os.close(os.open(path, os.O_RDONLY))

shutil.copy("/code/file", "/tmp/file")
shutil.copy("/code/opens", "/tmp/opens")
for place, path in (("code", "/code/file"), ("tmp", "/tmp/file"), ("usr", "/usr/bin/env")):
    for act in (builtin, raw):
        begun = time.perf_counter()
        act(path)
        took = int((time.perf_counter() - begun) * 1e6)
        print("took", place + "_" + act.__name__, took, flush=True)
    subprocess.run(["/tmp/opens", place + "_c", path, str(count)], check=True)
"""

OPENS_C = r"""
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv) {
    struct timespec begun, ended;
    long count = argc == 4 ? atol(argv[3]) : 0;
    clock_gettime(CLOCK_MONOTONIC, &begun);
    for (long i = 0; i < count; i++) {
        int file = open(argv[2], O_RDONLY | O_CLOEXEC);
        if (file < 0 || close(file) < 0)
            return 1;
    }
    clock_gettime(CLOCK_MONOTONIC, &ended);
    printf("took %s %ld\n", argv[1], (ended.tv_sec - begun.tv_sec) * 1000000 +
                                         (ended.tv_nsec - begun.tv_nsec) / 1000);
    return 0;
}
"""

MAKEFILE = """
sources := $(notdir $(wildcard /code/*.c))
VPATH := /code
CFLAGS := -O2
project: $(sources:.c=.o)
\t$(CC) -o $@ $^
"""

_FUNCTION = """
static int part_{file}_{number}(const char *text, int *left) {{
    char copy[256];
    int sum = {number};
    snprintf(copy, sizeof copy, "%s-%d", text, {file});
    for (size_t i = 0; i < strlen(copy); i++) {{
        switch (copy[i] % 5) {{
        case 0: sum += copy[i] * {number}; break;
        case 1: sum ^= copy[i] << 3; break;
        default: sum -= (int)i; *left -= 1; break;
        }}
        if (*left < 0 || isspace((unsigned char)copy[i])) return sum + errno;
    }}
    return sum;
}}
"""


def project(files: int = 60, functions: int = 14) -> dict[str, bytes]:
    """A C project: a Makefile, one header, and files of about 300 lines."""
    names = [f"part_{file}" for file in range(files)]
    header = "".join(f"int {name}(const char *text, int *left);\n" for name in names)
    made = {"Makefile": MAKEFILE, "parts.h": header}
    includes = "#include <ctype.h>\n#include <errno.h>\n#include <stdio.h>\n#include <stdlib.h>\n"
    includes += '#include <string.h>\n#include <time.h>\n#include "parts.h"\n'
    for file, name in enumerate(names):
        text = "".join(_FUNCTION.format(file=file, number=n) for n in range(functions))
        calls = "".join(f"    sum += {name}_{n}(text, left);\n" for n in range(functions))
        text += f"int {name}(const char *text, int *left) {{\n    int sum = 0;\n{calls}"
        made[f"{name}.c"] = f"{includes}{text}    return sum;\n}}\n"
    calls = "".join(f'    sum += {name}("{name}", &left);\n' for name in names)
    body = f"    int sum = 0, left = 1000;\n{calls}    return sum == 7;\n"
    made["main.c"] = f'#include "parts.h"\nint main(void) {{\n{body}}}\n'
    return {name: text.encode() for name, text in made.items()}

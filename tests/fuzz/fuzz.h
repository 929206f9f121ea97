/* What the harnesses share: a place for files, and, where there is no libFuzzer, a main that runs
 * the inputs of its standard input (four bytes of length each, in this machine's order) and writes
 * a byte after each. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The harness's own are below. */
enum { DESCRIPTORS = 10, LONGEST = 1 << 17 };

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t size);

/* A copy of its own size, so that what is read beyond its end is noticed. */
__attribute__((unused)) static char *as_text(const unsigned char *bytes, size_t size) {
    static char *copy;
    free(copy);
    copy = strndup((const char *)bytes, size);
    return copy;
}

__attribute__((unused)) static void put_file(const char *name, const unsigned char *bytes,
                                             size_t size) {
    int file = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (file < 0 || write(file, bytes, size) != (ssize_t)size)
        abort();
    close(file);
}

#ifndef LIBFUZZER
int main(void) {
    int answers = dup(1);
    if (!freopen("/dev/null", "w", stdout))
        return 1;
    for (uint32_t size; fread(&size, sizeof size, 1, stdin) == 1;) {
        unsigned char *bytes = malloc(size ? size : 1);
        if (!bytes || size > LONGEST || fread(bytes, 1, size, stdin) != size)
            return 1;
        LLVMFuzzerTestOneInput(bytes, size);
        free(bytes);
        if (write(answers, "", 1) != 1)
            return 1;
    }
    return 0;
}
#endif

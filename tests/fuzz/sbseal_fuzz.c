/* What sbseal makes of any bytes: as a list of items, and as a limit. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static jmp_buf refused;
static void *allocated[2];

/* What sbseal allocates is freed after each input, and where it would end, it goes on. */
static void *keep(void *memory) {
    allocated[allocated[0] != NULL] = memory;
    return memory;
}
#define malloc(size) keep(malloc(size))
#define calloc(count, size) keep(calloc(count, size))
#define _exit(code) longjmp(refused, code)
#define setrlimit(resource, both) ((void)(resource), (void)(both), 0)
#define main sbseal_main
#include "../../slurmbridge/node/sbseal.c"
#undef main
#undef malloc
#undef calloc
#undef _exit

#include "fuzz.h"

static void check_list(const unsigned char *bytes, size_t size) {
    char **list = read_list(".", "command");
    size_t at = 0;
    for (; *list; list++) {
        size_t length = strlen(*list) + 1;
        if (at + length > size || memcmp(*list, bytes + at, length))
            abort();
        at += length;
    }
    if (at != size)
        abort();
}

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t size) {
    static const char *const names[] = {"nproc", "nofile", "fsize"};
    if (!size--)
        return 0;
    unsigned char target = *bytes++;
    if (!setjmp(refused)) {
        if (target & 1) {
            put_file("command", bytes, size);
            check_list(bytes, size);
        } else {
            char *text = as_text(bytes, size);
            set_limit(text, names[target / 2 % 3], RLIMIT_CORE);
        }
    }
    for (size_t i = 0; i < 2; i++, allocated[i - 1] = NULL)
        free(allocated[i]);
    close_range(DESCRIPTORS, ~0U, 0); /* one is left where a file was refused */
    return 0;
}

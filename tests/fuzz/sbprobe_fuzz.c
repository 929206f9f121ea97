/* What sbprobe makes of any bytes in place of the files that it reads in /proc. */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

static const unsigned char *text;
static size_t text_size;

static FILE *open_text(void) { return text_size ? fmemopen((void *)text, text_size, "r") : NULL; }
#define fopen(path, mode) open_text()
#define statvfs(path, system) (memset(system, 0, sizeof *(system)), strlen(path) > 4095)
#define access(path, mode) ((void)(path), 0)
#define main sbprobe_main
#include "../../slurmbridge/node/sbprobe.c"
#undef main
#undef fopen

#include "fuzz.h"

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t size) {
    int parent, inner;
    char name[512];
    if (!size)
        return 0;
    text = bytes + 1;
    text_size = size - 1;
    switch (*bytes % 8) {
    case 0: tell_status("/proc/self"); break;
    case 1: tell_interfaces("/proc/self"); break;
    case 2: tell_routes(); break;
    case 3: tell_sockets(); break;
    case 4: tell_control_groups(); break;
    case 5: tell_mounts(); break;
    case 6: read_process("1", &parent, &inner); break;
    default:
        snprintf(name, sizeof name, "%.*s", (int)text_size, (const char *)text);
        unescape(name);
        print_word(name);
    }
    return 0;
}

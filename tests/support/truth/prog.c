/* Does exactly what tests/support/truth/expected.py says, the same as prog.py.
 * prog ROOT [ADDRESS4 ADDRESS6]: below ROOT lie input, code, output and tmp; the addresses lead
 * nowhere and are given in a container alone. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LISTENER = 21017, CLOSED = 21019, NOBODY = 21020 };
static const char *root;
static char *no_environment[] = {NULL};

static void must(int fine, const char *what) {
    if (!fine) {
        perror(what);
        exit(90);
    }
}

/* Of the last calls: a call takes two. */
static const char *below(const char *path) {
    static char kept[4][512];
    static int next;
    char *made = kept[next++ % 4];
    snprintf(made, sizeof kept[0], "%s%s", root, path);
    return made;
}

static void make_at(int folder, const char *path, int flags, size_t bytes) {
    int file = openat(folder, path, flags | O_CREAT | O_CLOEXEC, 0644);
    must(file >= 0, path);
    char *data = calloc(bytes + 1, 1);
    must(write(file, data, bytes) == (ssize_t)bytes, "write");
    free(data);
    close(file);
}

static void make(const char *path, size_t bytes) {
    make_at(AT_FDCWD, path, O_WRONLY | O_TRUNC, bytes);
}

static void look(const char *path) {
    char data[4096];
    int file = open(path, O_RDONLY | O_CLOEXEC);
    must(file >= 0, path);
    while (read(file, data, sizeof data) > 0)
        ;
    close(file);
}

static void fails(int result, const char *what) {
    must(result < 0, what);
}

static void names(void) {
    static const char *const strange[] = {
        "/output/sp ace", "/output/new\nline", "/output/quo\"te'", "/output/\xff\xfe",
        "/output/back\\slash", "/output/\xc3\xbc", "/output/<angle>",
        "/output/\n1 1.000000 +++ exited with 0 +++\n",
    };
    for (size_t i = 0; i < sizeof strange / sizeof *strange; i++)
        make(below(strange[i]), 1);
}

static void outputs(void) {
    make(below("/output/made"), 12345);
    must(!rename(below("/output/made"), below("/output/renamed")), "rename");
    must(!link(below("/output/renamed"), below("/output/hard")), "link");
    must(!symlink("renamed", below("/output/soft")), "symlink");
    look(below("/output/soft"));
    must(!mkdir(below("/output/folder"), 0755) && !chdir(below("/output/folder")), "mkdir");
    make("inside", 2);
    must(!unlink("inside") && !chdir(".."), "unlink");
    make("./folder/../relative", 3);
    fails(open("absent", O_RDONLY), "absent");
    int folder = open(below("/output/folder"), O_PATH | O_DIRECTORY | O_CLOEXEC);
    make_at(folder, "by-folder", O_RDWR, 4);
    must(!renameat(folder, "by-folder", folder, "moved"), "renameat");
    must(!unlinkat(folder, "moved", 0) && !mkdirat(folder, "sub", 0755), "unlinkat");
    must(!unlinkat(folder, "sub", AT_REMOVEDIR) && !fchdir(folder), "fchdir");
    close(folder);
    make("after-fchdir", 5);
    names();
}

static void temporary(void) {
    make(below("/tmp/scratch"), 200);
    must(!chmod(below("/tmp/scratch"), 0640) && !truncate(below("/tmp/scratch"), 100), "chmod");
    must(!unlink(below("/tmp/scratch")) && !mkfifo(below("/tmp/pipe"), 0600), "mkfifo");
    make(below("/tmp/one"), 1);
    make(below("/tmp/two"), 2);
    must(!syscall(SYS_renameat2, AT_FDCWD, below("/tmp/one"), AT_FDCWD, below("/tmp/two"), 2),
         "exchange");
    make(below("/tmp/closed"), 0);
    must(!chmod(below("/tmp/closed"), 0), "chmod");
    fails(open(below("/tmp/closed"), O_RDONLY), "closed");
    fails(open(below("/input/data.csv"), O_WRONLY), "input");
}

static void *thread(void *name) {
    make(name, 6);
    return NULL;
}

static void threads(void) {
    char first[512], second[512];
    snprintf(first, sizeof first, "%s/output/thread-1", root);
    snprintf(second, sizeof second, "%s/output/thread-2", root);
    pthread_t one, two;
    must(!pthread_create(&one, NULL, thread, first), "thread");
    must(!pthread_create(&two, NULL, thread, second), "thread");
    pthread_join(one, NULL);
    pthread_join(two, NULL);
}

static int ended(pid_t child) {
    int status;
    must(waitpid(child, &status, 0) == child, "waitpid");
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static void child_executing(const char *path, char **argv) {
    pid_t child = fork();
    if (!child) {
        execve(path, argv, no_environment);
        _exit(91);
    }
    must(ended(child) == 0, path);
}

static void simple_children(void) {
    pid_t child = fork();
    if (!child)
        _exit(3);
    must(ended(child) == 3, "fork");
    char *strange[] = {"true", "a b", "q\"uote", "new\nline", "\xff", "", NULL};
    child_executing("/bin/true", strange);
    char *refuses[] = {"false", NULL};
    must(!posix_spawn(&child, "/bin/false", NULL, NULL, refuses, no_environment), "spawn");
    must(ended(child) == 1, "false");
    child = vfork();
    if (!child) {
        execve("/bin/true", (char *[]){"/bin/true", "vforked", NULL}, no_environment);
        _exit(91);
    }
    must(ended(child) == 0, "vfork");
    child_executing("/bin/sh", (char *[]){"sh", "-c", "exec /bin/true twice", NULL});
}

static void killed_children(void) {
    pid_t child = fork();
    if (!child) {
        kill(getpid(), SIGKILL);
        _exit(91);
    }
    must(ended(child) == 128 + SIGKILL, "SIGKILL");
    child = fork();
    if (!child)
        for (;;)
            pause();
    must(!kill(child, SIGTERM), "kill");
    must(ended(child) == 128 + SIGTERM, "SIGTERM");
    child = fork();
    if (!child) {
        execve(below("/output/missing"), (char *[]){"missing", NULL}, no_environment);
        execve(below("/tmp/closed"), (char *[]){"closed", NULL}, no_environment);
        _exit(5);
    }
    must(ended(child) == 5, "missing");
}

/* Begins only when its parent is gone, and is gone before the program is. */
static void orphan(void) {
    int told[2], gate[2];
    must(!pipe(told) && !pipe(gate), "pipe");
    pid_t child = fork(), grandchild = 0;
    if (!child) {
        close(gate[1]);
        grandchild = fork();
        if (!grandchild) {
            must(read(gate[0], &grandchild, 1) == 0, "gate");
            make(below("/output/orphan"), 7);
            _exit(7);
        }
        must(write(told[1], &grandchild, sizeof grandchild) > 0, "told");
        _exit(0);
    }
    close(gate[0]);
    must(read(told[0], &grandchild, sizeof grandchild) > 0, "told");
    struct pollfd end = {(int)syscall(SYS_pidfd_open, grandchild, 0), POLLIN, 0};
    must(end.fd >= 0 && ended(child) == 0, "pidfd_open");
    close(gate[1]);
    must(poll(&end, 1, 30000) == 1, "orphan");
}

static struct sockaddr_in inet(const char *address, int port) {
    struct sockaddr_in made = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    inet_pton(AF_INET, address, &made.sin_addr);
    return made;
}

static ssize_t send_to(int from, const struct sockaddr_in *there) {
    return sendto(from, "x", 1, 0, (const void *)there, sizeof *there);
}

static int made_socket(int family, int type) {
    int made = socket(family, type | SOCK_CLOEXEC, 0);
    must(made >= 0, "socket");
    return made;
}

static void internet(char **far) {
    struct sockaddr_in there = inet("127.0.0.1", CLOSED), here = inet("127.0.0.1", LISTENER);
    fails(connect(made_socket(AF_INET, SOCK_STREAM), (void *)&there, sizeof there), "closed");
    there = inet("127.0.0.1", NOBODY);
    must(send_to(made_socket(AF_INET, SOCK_DGRAM), &there) == 1, "sendto");
    int listener = made_socket(AF_INET, SOCK_STREAM), one = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    must(!bind(listener, (void *)&here, sizeof here) && !listen(listener, 1), "bind");
    must(!connect(made_socket(AF_INET, SOCK_STREAM), (void *)&here, sizeof here), "connect");
    socklen_t size = sizeof here;
    must(accept(listener, (void *)&here, &size) >= 0, "accept");
    if (!far[0])
        return;
    there = inet(far[0], 443);
    fails(connect(made_socket(AF_INET, SOCK_STREAM), (void *)&there, sizeof there), far[0]);
    fails((int)send_to(made_socket(AF_INET, SOCK_DGRAM), &there), "sendto");
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(443)};
    inet_pton(AF_INET6, far[1], &six.sin6_addr);
    fails(connect(made_socket(AF_INET6, SOCK_STREAM), (void *)&six, sizeof six), far[1]);
}

static void unix_sockets(void) {
    struct sockaddr_un here = {.sun_family = AF_UNIX}, there = here, hidden = here;
    snprintf(here.sun_path, sizeof here.sun_path, "%s", below("/tmp/socket"));
    snprintf(there.sun_path, sizeof there.sun_path, "%s", below("/tmp/nobody"));
    memcpy(hidden.sun_path + 1, "truth", 5);
    int listener = made_socket(AF_UNIX, SOCK_STREAM);
    must(!bind(listener, (void *)&here, sizeof here) && !listen(listener, 1), "bind");
    must(!connect(made_socket(AF_UNIX, SOCK_STREAM), (void *)&here, sizeof here), "connect");
    must(accept(listener, NULL, NULL) >= 0, "accept");
    fails(connect(made_socket(AF_UNIX, SOCK_STREAM), (void *)&there, sizeof there), "nobody");
    must(!bind(made_socket(AF_UNIX, SOCK_DGRAM), (void *)&hidden,
               sizeof hidden.sun_family + 6), "abstract");
    int pair[2];
    must(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), "socketpair");
    must(!unlink(below("/tmp/socket")), "unlink");
}

int main(int count, char **arguments) {
    must(count >= 2, "usage");
    root = arguments[1];
    look(below("/input/data.csv"));
    look(below("/code/prog.c"));
    look("/etc/hostname");
    look("/proc/self/status");
    make_at(AT_FDCWD, "/dev/null", O_WRONLY, 9);
    fails(open("/home/truth", O_RDONLY), "/home/truth");
    if (arguments[2])
        make("/dev/made", 1);
    outputs();
    temporary();
    threads();
    simple_children();
    killed_children();
    orphan();
    internet(arguments + 2);
    unix_sockets();
    puts("done");
}

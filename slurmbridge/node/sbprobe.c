/* sbprobe: says what a container is, one fact a line. It judges nothing.
 *
 *   sbprobe inside              from inside, as the program will be: run by sbseal
 *   sbprobe outside PID TARGET=FILE...
 *                               from outside: the container whose first process descends from PID;
 *                               whether TARGET inside is FILE here
 *
 * docs/sbseal.md lists the facts. What is looked for is tried where it can be tried.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/magic.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

static char line[65536];

/* Where a fact comes from: nothing, or "outside ". */
static const char *side = "";

static FILE *open_for(const char *folder, const char *name) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "re");
    if (!file)
        printf("%sunreadable %s %s\n", side, name, strerrorname_np(errno));
    return file;
}

/* A name that may hold anything, as one word. */
static void print_word(const char *text) {
    for (; *text; text++)
        if (isgraph((unsigned char)*text) && *text != '\\')
            putchar(*text);
        else
            printf("\\%03o", (unsigned char)*text);
}

/* --- of a process, by its folder in /proc --------------------------------------------------------- */

static void tell_status(const char *folder) {
    FILE *file = open_for(folder, "status");
    if (!file)
        return;
    int capabilities = 0;
    while (fgets(line, sizeof line, file)) {
        unsigned value;
        if (sscanf(line, "NoNewPrivs: %u", &value) == 1)
            printf("%sno_new_privs %u\n", side, value);
        else if (sscanf(line, "Seccomp: %u", &value) == 1)
            printf("%sseccomp %u\n", side, value);
        else if (!strncmp(line, "Cap", 3))
            capabilities |= strcmp(line + strcspn(line, "\t"), "\t0000000000000000\n") != 0;
    }
    printf("%scapabilities %s\n", side, capabilities ? "some" : "none");
    fclose(file);
}

static void tell_interfaces(const char *folder) {
    FILE *file = open_for(folder, "net/dev");
    for (int number = 0; file && fgets(line, sizeof line, file); number++) {
        char *colon = strchr(line, ':');
        if (number < 2 || !colon)
            continue;
        *colon = 0;
        printf("%sinterface %s\n", side, line + strspn(line, " "));
    }
    if (file)
        fclose(file);
}

static const char *kind(int folder, const char *name, mode_t mode) {
    static const char listener[] = "anon_inode:seccomp notify";
    char target[sizeof listener] = "";
    /* Paths begin with a slash, so that this is none. */
    if (readlinkat(folder, name, target, sizeof target) == sizeof target - 1 &&
        !memcmp(target, listener, sizeof target - 1))
        return "seccomp";
    return S_ISREG(mode)    ? "file"
           : S_ISDIR(mode)  ? "folder"
           : S_ISFIFO(mode) ? "pipe"
           : S_ISSOCK(mode) ? "socket"
           : S_ISCHR(mode)  ? "device"
                            : "other";
}

static void tell_descriptors(const char *folder) {
    char path[512];
    snprintf(path, sizeof path, "%s/fd", folder);
    DIR *descriptors = opendir(path);
    if (!descriptors) {
        printf("%sunreadable fd %s\n", side, strerrorname_np(errno));
        return;
    }
    for (struct dirent *entry; (entry = readdir(descriptors));) {
        struct stat status;
        if (!isdigit((unsigned char)*entry->d_name) ||
            (!*side && atoi(entry->d_name) == dirfd(descriptors)))
            continue;
        if (fstatat(dirfd(descriptors), entry->d_name, &status, 0))
            status.st_mode = 0;
        printf("%sdescriptor %s %s\n", side, entry->d_name,
               kind(dirfd(descriptors), entry->d_name, status.st_mode));
    }
    closedir(descriptors);
}

/* --- inside: what there is ------------------------------------------------------------------------ */

static void tell_identity(void) {
    uid_t user[3];
    gid_t group[3];
    struct utsname host;
    getresuid(user, user + 1, user + 2);
    getresgid(group, group + 1, group + 2);
    printf("user %u %u %u\n", user[0], user[1], user[2]);
    printf("group %u %u %u\n", group[0], group[1], group[2]);
    uname(&host);
    fputs("hostname ", stdout);
    print_word(host.nodename);
    fputs("\ndomainname ", stdout);
    print_word(host.domainname);
    mode_t mask = umask(077);
    printf("\numask %03o\n", mask);
    static const struct {
        const char *name;
        int resource;
    } limits[] = {{"core", RLIMIT_CORE},
                  {"nproc", RLIMIT_NPROC},
                  {"nofile", RLIMIT_NOFILE},
                  {"fsize", RLIMIT_FSIZE}};
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        struct rlimit limit;
        getrlimit(limits[i].resource, &limit);
        if (limit.rlim_cur == limit.rlim_max)
            printf("limit %s %llu\n", limits[i].name, (unsigned long long)limit.rlim_max);
        else
            printf("limit %s uneven\n", limits[i].name);
    }
}

static void tell_environment(char **environment) {
    for (; *environment; environment++) {
        char *sign = strchr(*environment, '=');
        if (sign)
            *sign = 0;
        fputs("variable ", stdout);
        print_word(*environment);
        putchar('\n');
    }
}

static void tell_routes(void) {
    char device[64];
    FILE *file = open_for("/proc/self", "net/route");
    for (int number = 0; file && fgets(line, sizeof line, file); number++)
        if (number > 0 && sscanf(line, "%63s", device) == 1)
            printf("route %s\n", device);
    if (file)
        fclose(file);
    if (access("/proc/self/net/ipv6_route", F_OK))
        return; /* a kernel without IPv6 */
    file = open_for("/proc/self", "net/ipv6_route");
    while (file && fgets(line, sizeof line, file)) {
        char *name = strrchr(line, ' ');
        if (name && strcmp(name + 1, "lo\n"))
            printf("route %s", name + 1);
    }
    if (file)
        fclose(file);
}

/* Sockets that are there before the program makes any. One of Unix without a name cannot be reached:
 * Apptainer has some for a moment in the network of a pod. */
static void tell_sockets(void) {
    static const char *const tables[] = {"net/unix", "net/tcp", "net/udp"};
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        FILE *file = open_for("/proc/self", tables[i]);
        int lines = 0;
        char name[2];
        while (file && fgets(line, sizeof line, file))
            lines += i > 0 || sscanf(line, "%*s %*s %*s %*s %*s %*s %*s %1s", name) == 1;
        if (lines > 1)
            printf("sockets %s %d\n", tables[i], lines - 1);
        if (file)
            fclose(file);
    }
}

static void tell_resolver(void) {
    struct stat status;
    if (stat("/etc/resolv.conf", &status) == 0)
        printf("resolver %s\n", status.st_size ? "configured" : "none");
    else
        printf("resolver %s\n", errno == ENOENT ? "none" : strerrorname_np(errno));
}

static void tell_processes(void) {
    int count = 0;
    DIR *processes = opendir("/proc");
    for (struct dirent *entry; processes && (entry = readdir(processes));)
        count += isdigit((unsigned char)*entry->d_name) != 0;
    printf("processes %d\n", count);
    if (processes)
        closedir(processes);
}

static void tell_control_groups(void) {
    FILE *file = open_for("/proc/self", "cgroup");
    while (file && fgets(line, sizeof line, file)) {
        char *name = strrchr(line, ':');
        line[strcspn(line, "\n")] = 0;
        fputs("cgroup ", stdout);
        print_word(name ? name + 1 : line);
        putchar('\n');
    }
    if (file)
        fclose(file);
}

/* Undoes the octal escapes of mountinfo. */
static void unescape(char *text) {
    char *to = text;
    for (; *text; text++, to++) {
        if (text[0] == '\\' && strspn(text + 1, "01234567") >= 3) {
            *to = (char)((text[1] - '0') << 6 | (text[2] - '0') << 3 | (text[3] - '0'));
            text += 3;
        } else {
            *to = *text;
        }
    }
    *to = 0;
}

static void tell_size(const char *name, const struct statvfs *system) {
    printf("size %s %llu\n", name,
           (unsigned long long)system->f_blocks * (unsigned long long)system->f_frsize);
}

static void tell_mounts(void) {
    char target[4096];
    FILE *file = open_for("/proc/self", "mountinfo");
    while (file && fgets(line, sizeof line, file)) {
        struct statvfs system;
        if (sscanf(line, "%*s %*s %*s %*s %4095s", target) != 1)
            continue;
        unescape(target);
        /* Asked of the path, because mounts lie over mounts. */
        int failed = statvfs(target, &system);
        fputs("mount ", stdout);
        print_word(target);
        printf(" %s\n", failed ? strerrorname_np(errno) : system.f_flag & ST_RDONLY ? "ro" : "rw");
    }
    if (file)
        fclose(file);
    static const char *const sized[] = {"/tmp", "/dev/shm"};
    struct statvfs system;
    for (size_t i = 0; i < 2; i++)
        if (statvfs(sized[i], &system) == 0)
            tell_size(sized[i], &system);
    /* Where it does not lie in memory, it has no size of its own. */
    struct statfs kind;
    if (statfs("/output", &kind) == 0 && kind.f_type == TMPFS_MAGIC &&
        statvfs("/output", &system) == 0) {
        tell_size("/output", &system);
        printf("inodes /output %llu\n", (unsigned long long)system.f_files);
    }
}

static void tell_writable(void) {
    static const char *const folders[] = {
        "/",       "/.sb", "/bin",  "/boot", "/code", "/dev", "/dev/mqueue", "/dev/pts", "/dev/shm",
        "/etc",    "/home", "/input", "/lib", "/media", "/mnt", "/opt", "/output", "/proc",
        "/proc/self", "/root", "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/var", "/var/lib",
        "/var/tmp",
    };
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++)
        if (access(folders[i], W_OK) == 0)
            printf("writable %s\n", folders[i]);
}

static void tell_first_process(void) {
    static const char *const files[] = {"/proc/1/environ", "/proc/1/mem", "/proc/1/fd",
                                        "/proc/1/maps"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        int file = open(files[i], O_RDONLY | O_CLOEXEC);
        printf("%s %s\n", file < 0 ? "closed" : "open", files[i]);
        if (file >= 0)
            close(file);
    }
}

/* --- inside: what is refused ---------------------------------------------------------------------- */

static void tell_call(const char *name, long result) {
    printf("call %s %s\n", name, result < 0 ? strerrorname_np(errno) : "done");
}

#define CALL(name, ...) tell_call(name, syscall(__VA_ARGS__))

/* Where it is not refused, a child begins, and ends. */
static void try_clone(const char *name, unsigned long flags) {
    fflush(stdout);
    long child = syscall(SYS_clone, flags | SIGCHLD, NULL, NULL, NULL, NULL);
    if (child == 0)
        _exit(0);
    tell_call(name, child);
    if (child > 0)
        waitpid((pid_t)child, NULL, 0);
}

static void try_foreign(void) {
#ifdef __x86_64__
    CALL("x32", 0x40000000 | SYS_getpid);
    long result;
    /* i386's getpid. A kernel without it ends the caller, so it is done in a child. */
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        __asm__ volatile("int $0x80" : "=a"(result) : "a"(20) : "memory", "r8", "r9", "r10", "r11");
        _exit(result == -ENOSYS ? 0 : 1);
    }
    int status = 1;
    waitpid(child, &status, 0);
    printf("call i386 %s\n", WIFEXITED(status) && WEXITSTATUS(status) ? "done" : "ENOSYS");
#endif
}

/* With arguments that do no harm where the call is not refused, and then give another error. */
static void try_calls(void) {
    CALL("clone3", SYS_clone3, NULL, 0);
    CALL("io_uring_setup", SYS_io_uring_setup, 0, NULL);
    CALL("setns", SYS_setns, -1, 0);
    CALL("pidfd_getfd", SYS_pidfd_getfd, -1, 0, 0);
    CALL("kcmp", SYS_kcmp, getpid(), getpid(), 100, 0, 0);
    CALL("process_vm_readv", SYS_process_vm_readv, getpid(), NULL, 0, NULL, 0, 0);
    CALL("keyctl", SYS_keyctl, 0, -3, 0);
    CALL("add_key", SYS_add_key, NULL, NULL, NULL, 0, 0);
    CALL("request_key", SYS_request_key, NULL, NULL, NULL, 0);
    CALL("name_to_handle_at", SYS_name_to_handle_at, -1, NULL, NULL, NULL, 0);
    CALL("open_by_handle_at", SYS_open_by_handle_at, -1, NULL, 0);
    CALL("bpf", SYS_bpf, -1, NULL, 0);
    CALL("perf_event_open", SYS_perf_event_open, NULL, 0, -1, -1, 0);
    CALL("userfaultfd", SYS_userfaultfd, -1);
    CALL("mount", SYS_mount, NULL, NULL, NULL, 0, NULL);
    CALL("move_mount", SYS_move_mount, -1, NULL, -1, NULL, 0);
    CALL("open_tree", SYS_open_tree, -1, NULL, -1);
    CALL("seccomp_listener", SYS_seccomp, SECCOMP_SET_MODE_FILTER,
         SECCOMP_FILTER_FLAG_NEW_LISTENER, NULL);
    CALL("vsock", SYS_socket, AF_VSOCK, SOCK_STREAM, 0);
    CALL("alg", SYS_socket, AF_ALG, SOCK_SEQPACKET, 0);
    CALL("packet", SYS_socket, AF_PACKET, SOCK_RAW, 0);
    CALL("netlink_audit", SYS_socket, AF_NETLINK, SOCK_RAW, 9);
    CALL("sctp", SYS_socket, AF_INET, SOCK_STREAM, 132);
    CALL("mptcp", SYS_socket, AF_INET, SOCK_STREAM, 262);
    CALL("tiocsti", SYS_ioctl, 0, TIOCSTI, "");
    CALL("tiocsetd", SYS_ioctl, 0, TIOCSETD, NULL);
    CALL("memfd_secret", 447, -1);
    CALL("statmount", 457, NULL, NULL, 0, -1);
    CALL("lsm_set_self_attr", 460, 0, NULL, 0, -1);
    CALL("above_newest", 467, -1, NULL, 0, NULL, 0);
    try_foreign();
    try_clone("clone_newuser", CLONE_NEWUSER);
    try_clone("clone_untraced", CLONE_UNTRACED);
    /* Shared handlers without shared memory: where it is let through, no child begins. */
    try_clone("clone_parent", CLONE_PARENT | CLONE_SIGHAND);
    CALL("ptrace", SYS_ptrace, PTRACE_TRACEME, 0, NULL, NULL);
    CALL("unshare", SYS_unshare, CLONE_NEWUSER);
}

static void inside(char **environment) {
    tell_identity();
    tell_environment(environment);
    tell_status("/proc/self");
    tell_descriptors("/proc/self");
    tell_interfaces("/proc/self");
    tell_routes();
    tell_sockets();
    tell_resolver();
    tell_processes();
    tell_control_groups();
    tell_mounts();
    tell_writable();
    tell_first_process();
    try_calls();
}

/* --- outside -------------------------------------------------------------------------------------- */

/* The parent, and the pid in the innermost namespace when there is more than one. */
static int read_process(const char *pid, int *parent, int *inner) {
    char folder[300];
    snprintf(folder, sizeof folder, "/proc/%s/status", pid);
    FILE *file = fopen(folder, "re");
    if (!file)
        return -1;
    *parent = *inner = 0;
    while (fgets(line, sizeof line, file)) {
        sscanf(line, "PPid: %d", parent);
        if (!strncmp(line, "NSpid:\t", 7) && strchr(line + 7, '\t'))
            *inner = atoi(strrchr(line, '\t') + 1);
    }
    fclose(file);
    return 0;
}

static int descends(int pid, int ancestor) {
    for (int depth = 0; pid > 1 && depth < 64; depth++) {
        char name[16];
        int inner;
        if (pid == ancestor)
            return 1;
        snprintf(name, sizeof name, "%d", pid);
        if (read_process(name, &pid, &inner))
            return 0;
    }
    return 0;
}

static int find_first(int ancestor) {
    DIR *processes = opendir("/proc");
    int found = 0;
    for (struct dirent *entry; processes && !found && (entry = readdir(processes));) {
        int parent, inner;
        if (isdigit((unsigned char)*entry->d_name) &&
            read_process(entry->d_name, &parent, &inner) == 0 && inner == 1 &&
            descends(atoi(entry->d_name), ancestor))
            found = atoi(entry->d_name);
    }
    if (processes)
        closedir(processes);
    return found;
}

static void tell_namespaces(const char *folder) {
    static const char *const names[] = {"ipc", "mnt", "net", "pid", "user", "uts"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[512];
        struct stat own, its;
        snprintf(path, sizeof path, "/proc/self/ns/%s", names[i]);
        int failed = stat(path, &own);
        snprintf(path, sizeof path, "%s/ns/%s", folder, names[i]);
        failed |= stat(path, &its);
        printf("outside namespace %s %s\n", names[i],
               failed                      ? "unreadable"
               : own.st_ino == its.st_ino ? "shared"
                                           : "own");
    }
}

static void tell_same(const char *folder, char *pair) {
    char path[4096];
    struct stat here, its;
    char *sign = strchr(pair, '=');
    if (!sign)
        return;
    *sign = 0;
    snprintf(path, sizeof path, "%s/%s", folder, *pair == '/' ? "root" : pair);
    if (*pair == '/')
        strncat(path, pair, sizeof path - strlen(path) - 1);
    int failed = stat(path, &its) || stat(sign + 1, &here);
    printf("outside %s %s\n", pair,
           failed                                                  ? "unreadable"
           : here.st_dev == its.st_dev && here.st_ino == its.st_ino ? "same"
                                                                    : "other");
}

static int outside(int ancestor, char **pairs) {
    char folder[64];
    int pid = find_first(ancestor);
    if (!pid)
        return 1;
    side = "outside ";
    printf("pid %d\n", pid);
    snprintf(folder, sizeof folder, "/proc/%d", pid);
    tell_status(folder);
    tell_interfaces(folder);
    tell_descriptors(folder);
    tell_namespaces(folder);
    for (; *pairs; pairs++)
        tell_same(folder, *pairs);
    return 0;
}

int main(int count, char **arguments, char **environment) {
    int code = 0;
    if (count == 2 && !strcmp(arguments[1], "inside"))
        inside(environment);
    else if (count >= 3 && !strcmp(arguments[1], "outside"))
        code = outside(atoi(arguments[2]), arguments + 3);
    else
        return 64;
    return fflush(stdout) || ferror(stdout) ? 1 : code;
}

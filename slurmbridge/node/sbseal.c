/* sbseal: the first process of every sealed container. docs/sbseal.md gives the reason for each line.
 *
 *   sbseal FOLDER nproc=N nofile=N fsize=BYTES
 *
 * It closes what it was handed, joins an empty session keyring, sets limits, gives up the way to
 * new privileges, loads the system call filter, and runs FOLDER/sbprobe, which writes what it finds
 * to descriptor 3. Only when "go\n" then comes from descriptor 4 does it run the program named in
 * FOLDER/command with the variables of FOLDER/environment, both lists of NUL-ended items. As
 * process 1 it forwards signals, reaps orphans, and ends as the program does: its exit code, or
 * 128 and the signal. Everything that fails before the program's start ends with 78 (EX_CONFIG).
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/sockios.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__x86_64__)
#define NATIVE AUDIT_ARCH_X86_64
#elif defined(__aarch64__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define NATIVE AUDIT_ARCH_AARCH64
#else
#error "sbseal knows x86-64 and little-endian 64-bit ARM"
#endif

enum { FACTS = 3, GATE = 4, REFUSED = 78 };
/* removexattrat, Linux 6.13: what comes after has not been reviewed, and does not exist here. */
enum { NEWEST_CALL = 466 };

static void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("sbseal: ", stderr);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    _exit(REFUSED);
}

/* --- the filter --------------------------------------------------------------------------------- */

/* From 424 on, numbers are the same on all architectures; libc's headers may lack the latest names. */
enum { quotactl_fd = 443, memfd_secret = 447, statmount = 457, listmount = 458,
       lsm_set_self_attr = 460 };

/* Whoever asks for these goes on without, when it seems that the kernel lacks them. */
static const unsigned not_there[] = {
    SYS_clone3, SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register, memfd_secret,
    statmount, listmount, lsm_set_self_attr,
#ifdef __x86_64__
    SYS_uselib, SYS_ustat, SYS_sysfs,
#endif
};

static const unsigned not_permitted[] = {
    /* namespaces and mounts */
    SYS_unshare, SYS_setns, SYS_mount, SYS_umount2, SYS_pivot_root, SYS_chroot, SYS_move_mount,
    SYS_open_tree, SYS_fsopen, SYS_fsconfig, SYS_fsmount, SYS_fspick, SYS_mount_setattr,
    SYS_sethostname, SYS_setdomainname,
    /* other processes */
    SYS_ptrace, SYS_process_vm_readv, SYS_process_vm_writev, SYS_pidfd_getfd, SYS_kcmp,
    SYS_process_madvise,
    /* keys, and files by handle, which know no mount namespace */
    SYS_keyctl, SYS_add_key, SYS_request_key, SYS_open_by_handle_at, SYS_name_to_handle_at,
    /* wide doors into the kernel */
    SYS_bpf, SYS_perf_event_open, SYS_userfaultfd, SYS_fanotify_init, SYS_lookup_dcookie,
    /* the machine */
    SYS_init_module, SYS_finit_module, SYS_delete_module, SYS_kexec_load, SYS_kexec_file_load,
    SYS_reboot, SYS_swapon, SYS_swapoff, SYS_acct, SYS_quotactl, quotactl_fd, SYS_settimeofday,
    SYS_clock_settime, SYS_syslog, SYS_vhangup,
#ifdef __x86_64__
    SYS_iopl, SYS_ioperm, SYS_modify_ldt,
#endif
};

/* Text put into a terminal's input; and what has the kernel load modules for whoever asks. */
static const unsigned ioctls[] = {
    TIOCSTI, 0x541C /* TIOCLINUX, which has no public header */, TIOCSETD, SIOCGIFBR, SIOCSIFBR,
    SIOCBRADDBR, SIOCBRDELBR, SIOCGIFVLAN, SIOCSIFVLAN,
};

static struct sock_filter filter[512];
static unsigned short length;

static void add(unsigned short code, unsigned k, unsigned char yes, unsigned char no) {
    if (length == sizeof filter / sizeof *filter)
        fail("the filter is too long");
    filter[length++] = (struct sock_filter)BPF_JUMP(code, k, yes, no);
}

static void load(unsigned offset) { add(BPF_LD | BPF_W | BPF_ABS, offset, 0, 0); }
static void answer(unsigned what) { add(BPF_RET | BPF_K, what, 0, 0); }
static void refuse(unsigned error) { answer(SECCOMP_RET_ERRNO | error); }

/* The low 32 bits of an argument, which come first, and are all that the kernel takes of those
 * asked for here. */
static void load_argument(unsigned which) {
    load(offsetof(struct seccomp_data, args) + 8 * which);
}

/* Rules are blocks that begin with the call's number loaded, and end with an answer or before the
 * next block; `begin` jumps over a block of `size` instructions when the call is another. */
static void begin(unsigned call, unsigned char size) {
    load(offsetof(struct seccomp_data, nr));
    add(BPF_JMP | BPF_JEQ | BPF_K, call, 0, size);
}

static void refuse_bits(unsigned call, unsigned argument, unsigned bits) {
    begin(call, 4);
    load_argument(argument);
    add(BPF_JMP | BPF_JSET | BPF_K, bits, 0, 1);
    refuse(EPERM);
    answer(SECCOMP_RET_ALLOW);
}

/* Unix, IPv4, IPv6 and route netlink, and of IP only what needs no kernel module to be loaded. */
static void add_socket(unsigned call) {
    begin(call, 19);
    load_argument(0);
    add(BPF_JMP | BPF_JEQ | BPF_K, AF_UNIX, 16, 0);
    add(BPF_JMP | BPF_JEQ | BPF_K, AF_NETLINK, 12, 0);
    add(BPF_JMP | BPF_JEQ | BPF_K, AF_INET, 2, 0);
    add(BPF_JMP | BPF_JEQ | BPF_K, AF_INET6, 1, 0);
    refuse(EAFNOSUPPORT);
    load_argument(1);
    add(BPF_ALU | BPF_AND | BPF_K, 0xf, 0, 0); /* without SOCK_CLOEXEC and SOCK_NONBLOCK */
    add(BPF_JMP | BPF_JEQ | BPF_K, SOCK_STREAM, 2, 0);
    add(BPF_JMP | BPF_JEQ | BPF_K, SOCK_DGRAM, 1, 0);
    refuse(EPERM);
    load_argument(2);
    add(BPF_JMP | BPF_JEQ | BPF_K, 0, 5, 0);
    add(BPF_JMP | BPF_JEQ | BPF_K, 6 /* TCP */, 4, 0);
    add(BPF_JMP | BPF_JEQ | BPF_K, 17 /* UDP */, 3, 2);
    load_argument(2);
    add(BPF_JMP | BPF_JEQ | BPF_K, 0 /* NETLINK_ROUTE */, 1, 0);
    refuse(EPROTONOSUPPORT);
    answer(SECCOMP_RET_ALLOW);
}

static void refuse_each(const unsigned *calls, size_t count, unsigned error) {
    for (size_t i = 0; i < count; i++) {
        add(BPF_JMP | BPF_JEQ | BPF_K, calls[i], 0, 1);
        refuse(error);
    }
}

static void add_ioctl(void) {
    begin(SYS_ioctl, 2 + 2 * sizeof ioctls / sizeof *ioctls);
    load_argument(1);
    refuse_each(ioctls, sizeof ioctls / sizeof *ioctls, EPERM);
    answer(SECCOMP_RET_ALLOW);
}

static void build_filter(void) {
    load(offsetof(struct seccomp_data, arch));
    add(BPF_JMP | BPF_JEQ | BPF_K, NATIVE, 1, 0);
    refuse(ENOSYS);
    load(offsetof(struct seccomp_data, nr));
    /* x32's numbers, 2^30 and above, are among these. */
    add(BPF_JMP | BPF_JGT | BPF_K, NEWEST_CALL, 0, 1);
    refuse(ENOSYS);
    refuse_each(not_there, sizeof not_there / sizeof *not_there, ENOSYS);
    refuse_each(not_permitted, sizeof not_permitted / sizeof *not_permitted, EPERM);
    refuse_bits(SYS_clone, 0, CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID |
                CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP | CLONE_UNTRACED);
    refuse_bits(SYS_seccomp, 1, SECCOMP_FILTER_FLAG_NEW_LISTENER);
    add_socket(SYS_socket);
    add_socket(SYS_socketpair);
    add_ioctl();
    answer(SECCOMP_RET_ALLOW);
}

/* --- what it is given --------------------------------------------------------------------------- */

/* Valid until the next call. */
static const char *path_of(const char *folder, const char *name) {
    static char path[256];
    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path)
        fail("the folder's path is too long");
    return path;
}

/* A file of NUL-ended items, as a NULL-ended list. */
static char **read_list(const char *folder, const char *name) {
    const char *path = path_of(folder, name);
    struct stat status;
    int file = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (file < 0 || fstat(file, &status))
        fail("%s: %s", path, strerror(errno));
    if (!S_ISREG(status.st_mode))
        fail("%s is no plain file", path);
    size_t size = (size_t)status.st_size;
    char *text = malloc(size + 1);
    if (!text || read(file, text, size + 1) != (ssize_t)size)
        fail("%s cannot be read whole", path);
    close(file);
    if (size && text[size - 1])
        fail("%s: the last item has no end", path);
    size_t items = 0;
    for (size_t i = 0; i < size; i++)
        items += !text[i];
    char **list = calloc(items + 1, sizeof *list);
    if (!list)
        fail("%s: %s", path, strerror(errno));
    for (size_t i = 0; i < items; i++, text += strlen(text) + 1)
        list[i] = text;
    return list;
}

/* NAME=NUMBER, soft and hard. */
static void set_limit(const char *argument, const char *name, int resource) {
    size_t size = strlen(name);
    if (strncmp(argument, name, size) || argument[size] != '=' ||
        !isdigit((unsigned char)argument[size + 1]))
        fail("\"%s\" is not %s=NUMBER", argument, name);
    char *end;
    errno = 0;
    rlim_t value = strtoull(argument + size + 1, &end, 10);
    struct rlimit both = {value, value};
    if (errno || *end || setrlimit(resource, &both))
        fail("%s: %s", argument, errno ? strerror(errno) : "not a number");
}

/* --- the seal ----------------------------------------------------------------------------------- */

static void close_from(unsigned first) {
    if (syscall(SYS_close_range, first, ~0U, 0))
        fail("close_range: %s", strerror(errno));
}

/* Its memory, descriptors and environment are the launcher's affair, and closed to the program. (The
 * program's own exec makes the program itself dumpable again.) */
static void set_dumpable(unsigned long value) {
    if (prctl(PR_SET_DUMPABLE, value))
        fail("PR_SET_DUMPABLE: %s", strerror(errno));
}

/* Those that its starter ignored are not; all are held from now on, until `follow` fetches them. */
static void hold_signals(sigset_t *held) {
    for (int number = 1; number < NSIG; number++)
        signal(number, SIG_DFL);
    sigfillset(held);
    sigprocmask(SIG_SETMASK, held, NULL);
}

static void seal(char **limits) {
    close_from(GATE + 1);
    if (fcntl(FACTS, F_SETFD, FD_CLOEXEC) || fcntl(GATE, F_SETFD, FD_CLOEXEC))
        fail("descriptors %d and %d: %s", FACTS, GATE, strerror(errno));
    umask(077);
    /* A leader of a process group cannot leave it, and must then have no terminal. */
    if (setsid() < 0 && open("/dev/tty", O_RDONLY | O_CLOEXEC) >= 0)
        fail("the terminal cannot be left");
    if (syscall(SYS_keyctl, 1 /* KEYCTL_JOIN_SESSION_KEYRING */, NULL) < 0 && errno != ENOSYS)
        fail("a new session keyring: %s", strerror(errno));
    set_limit(limits[0], "nproc", RLIMIT_NPROC);
    set_limit(limits[1], "nofile", RLIMIT_NOFILE);
    set_limit(limits[2], "fsize", RLIMIT_FSIZE);
    /* 1 is the only limit that the kernel heeds when it hands cores to a program of the node. */
    struct rlimit core = {0, 0};
    getrlimit(RLIMIT_CORE, &core);
    set_limit(core.rlim_max ? "core=1" : "core=0", "core", RLIMIT_CORE);
    set_dumpable(0);
    if (prctl(PR_SET_PDEATHSIG, SIGKILL))
        fail("PR_SET_PDEATHSIG: %s", strerror(errno));
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        fail("no_new_privs: %s", strerror(errno));
    build_filter();
    struct sock_fprog program = {length, filter};
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program))
        fail("the system call filter: %s", strerror(errno));
}

static int status_code(int status) {
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static void probe(const char *folder, char **environment) {
    const char *path = path_of(folder, "sbprobe");
    pid_t child = fork();
    if (child < 0)
        fail("fork: %s", strerror(errno));
    if (child == 0) {
        if (dup2(FACTS, 1) < 0)
            fail("dup2: %s", strerror(errno));
        /* Names alone: libc would heed GLIBC_TUNABLES. */
        for (char **item = environment; *item; item++)
            (*item)[strcspn(*item, "=")] = 0;
        execve(path, (char *[]){"sbprobe", "inside", NULL}, environment);
        fail("%s: %s", path, strerror(errno));
    }
    int status;
    if (waitpid(child, &status, 0) != child)
        fail("waitpid: %s", strerror(errno));
    if (status_code(status) == REFUSED)
        _exit(REFUSED); /* the child has said why */
    if (status_code(status))
        fail("the probe ended with %d", status_code(status));
}

static void await_go(void) {
    char word[3]; /* written at once, so read at once */
    if (read(GATE, word, sizeof word) != sizeof word || memcmp(word, "go\n", sizeof word))
        fail("the launcher did not let the program start");
}

/* --- the program -------------------------------------------------------------------------------- */

static void start(char **command, char **environment) {
    close_from(FACTS);
    setpgid(0, 0);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    environ = environment; /* where execvpe looks for PATH */
    execvpe(command[0], command, environment);
    int error = errno;
    fprintf(stderr, "%s: %s\n", command[0], strerror(error));
    _exit(error == ENOENT || error == ENOTDIR ? 127 : 126);
}

static int follow(pid_t program, const sigset_t *held) {
    for (;;) {
        int number = sigwaitinfo(held, NULL);
        if (number > 0 && number != SIGCHLD)
            kill(-program, number); /* its process group: a shell and what it runs */
        int status;
        pid_t ended;
        while ((ended = waitpid(-1, &status, WNOHANG)) > 0)
            if (ended == program)
                return status_code(status);
    }
}

int main(int count, char **arguments) {
    if (count != 5)
        fail("usage: sbseal FOLDER nproc=N nofile=N fsize=BYTES");
    const char *folder = arguments[1];
    char **command = read_list(folder, "command");
    char **environment = read_list(folder, "environment");
    if (!command[0] || !*command[0])
        fail("there is no program to run");

    sigset_t held;
    hold_signals(&held);
    seal(arguments + 2);
    probe(folder, environment);
    set_dumpable(1); /* the launcher looks at its descriptors; nobody else is there yet */
    if (write(FACTS, "end\n", 4) != 4)
        fail("the facts cannot be told: %s", strerror(errno));
    await_go();
    set_dumpable(0);

    pid_t program = fork();
    if (program < 0)
        fail("fork: %s", strerror(errno));
    if (program == 0)
        start(command, environment);
    setpgid(program, program); /* as it does itself: whichever comes first */
    close_from(FACTS);
    return follow(program, &held);
}

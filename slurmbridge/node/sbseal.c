/* sbseal: the first process of every sealed container. docs/sbseal.md gives the reason for each line.
 *
 *   sbseal FOLDER nproc=N nofile=N fsize=BYTES tasks=N refused=noted|silent
 *
 * It closes what it was handed, joins an empty session keyring, sets limits, gives up the way to
 * new privileges, loads the system call filter, and runs FOLDER/sbprobe, which writes what it finds
 * to descriptor 3. Only when "go\n" then comes from descriptor 4 does it run the program named in
 * FOLDER/command with the variables of FOLDER/environment, both lists of NUL-ended items; as often
 * as there are tasks. As process 1 it forwards signals, reaps orphans, answers and notes refused
 * calls, and ends as the program does: its exit code, or 128 and the signal. Everything that fails
 * before the program's start ends with 78 (EX_CONFIG).
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FACTS = 3, GATE = 4, REFUSED = 78, ENDED = 137, MOST_TASKS = 1024 };

static void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("sbseal: ", stderr);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    _exit(REFUSED);
}

#include "filter.h"

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

/* NAME=NUMBER */
static rlim_t number_of(const char *argument, const char *name) {
    size_t size = strlen(name);
    if (strncmp(argument, name, size) || argument[size] != '=' ||
        !isdigit((unsigned char)argument[size + 1]))
        fail("\"%s\" is not %s=NUMBER", argument, name);
    char *end;
    errno = 0;
    rlim_t value = strtoull(argument + size + 1, &end, 10);
    if (errno || *end)
        fail("%s: %s", argument, errno ? strerror(errno) : "not a number");
    return value;
}

/* Soft and hard. */
static void set_limit(const char *argument, const char *name, int resource) {
    rlim_t value = number_of(argument, name);
    struct rlimit both = {value, value};
    if (setrlimit(resource, &both))
        fail("%s: %s", argument, strerror(errno));
}

static void set_noted(const char *argument) {
    noted = !strcmp(argument, "refused=noted");
    if (!noted && strcmp(argument, "refused=silent"))
        fail("\"%s\" is not refused=noted or refused=silent", argument);
}

/* --- calls that are refused --------------------------------------------------------------------- */

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif

/* Where the kernel asks; none, and nothing is noted. */
static int listener = -1;
/* Whether a program of the submitter's may be running: the probe tries such calls on purpose. */
static int started;

static void load_filter(void) {
    build_filter();
    struct sock_fprog program = {length, filter};
    unsigned long flags = noted ? SECCOMP_FILTER_FLAG_NEW_LISTENER : 0;
    /* A signal does not have a call asked twice. Linux 5.19 */
    unsigned long once = noted ? SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV : 0;
    long result = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags | once, &program);
    if (result < 0 && errno == EINVAL)
        result = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
    if (result < 0)
        fail("the system call filter%s: %s", noted ? " that notes refused calls (Linux 5.0)" : "",
             strerror(errno));
    if (noted)
        listener = (int)result;
}

/* Stands in the trace, and does nothing else: there is no such descriptor. No program can make a
 * call as this process. */
static void note(const char *format, ...) {
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    mkdirat(-1, text, 0);
}

/* Calls of no other use. A listener needs a filter: libseccomp asks without, to know the kernel. */
static const char *escape(const struct seccomp_data *call) {
    if (call->arch != NATIVE)
        return NULL;
    if (call->nr == SYS_clone && call->args[0] & CLONE_UNTRACED)
        return "clone with CLONE_UNTRACED";
    return call->nr == SYS_seccomp && call->args[2] ? "seccomp with a listener" : NULL;
}

static void note_refusal(unsigned pid, const struct seccomp_data *call, unsigned error) {
    const unsigned long long *all = (const unsigned long long *)call->args;
    note("sbseal refused pid=%u call=%u arguments=0x%llx,0x%llx,0x%llx,0x%llx,0x%llx,0x%llx "
         "errno=%u arch=%08x", pid, (unsigned)call->nr, all[0], all[1], all[2], all[3], all[4],
         all[5], error, call->arch);
    if (escape(call)) {
        kill((pid_t)pid, SIGKILL); /* with the listener gone, it would go on until all are killed */
        fprintf(stderr, "sbseal: ended: the program tried to escape its tracer (%s)\n",
                escape(call));
        _exit(ENDED);
    }
}

/* The call is never made, whatever becomes of who asked. */
static void answer_call(void) {
    struct seccomp_notif asked = {0};
    if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &asked)) {
        if (errno != ENOENT && errno != EINTR) /* it has ended, or was interrupted */
            fail("a refused call cannot be received: %s", strerror(errno));
        return;
    }
    unsigned error = verdict(&asked.data) & SECCOMP_RET_DATA;
    if (started)
        note_refusal(asked.pid, &asked.data, error);
    struct seccomp_notif_resp given = {.id = asked.id, .error = -(int)error};
    ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &given);
}

/* The next signal; meanwhile, refused calls are answered. */
static int next_signal(int signals) {
    for (;;) {
        struct pollfd both[] = {{signals, POLLIN, 0}, {listener, POLLIN, 0}};
        struct signalfd_siginfo signal;
        poll(both, 2, -1);
        if (both[1].revents)
            answer_call();
        if (both[0].revents && read(signals, &signal, sizeof signal) == sizeof signal)
            return (int)signal.ssi_signo;
    }
}

static int open_signals(const sigset_t *which) {
    int signals = signalfd(-1, which, SFD_CLOEXEC);
    if (signals < 0)
        fail("signalfd: %s", strerror(errno));
    return signals;
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
    load_filter();
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
    sigset_t ends;
    sigemptyset(&ends);
    sigaddset(&ends, SIGCHLD);
    int status, signals = open_signals(&ends);
    pid_t ended;
    while (!(ended = waitpid(child, &status, WNOHANG)))
        next_signal(signals);
    if (ended != child)
        fail("waitpid: %s", strerror(errno));
    close(signals);
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

/* Which task it is stands in its variables, where there are several. */
static void number_variables(char **environment, unsigned task) {
    static const char *const names[] = {"SLURM_PROCID=", "SLURM_LOCALID="};
    static char values[2][32];
    for (size_t i = 0; i < 2; i++) {
        snprintf(values[i], sizeof *values, "%s%u", names[i], task);
        for (char **item = environment; *item; item++)
            if (!strncmp(*item, names[i], strlen(names[i])))
                *item = values[i];
    }
}

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

/* None runs before all are there: so each can be told from what another one starts. */
static void start_all(pid_t *tasks, unsigned count, char **command, char **environment) {
    int ready[2], gate[2];
    char word[MOST_TASKS] = {0};
    if (pipe2(ready, O_CLOEXEC) || pipe2(gate, O_CLOEXEC))
        fail("pipe: %s", strerror(errno));
    for (unsigned i = 0; i < count; i++) {
        tasks[i] = fork();
        if (tasks[i] < 0)
            fail("fork: %s", strerror(errno));
        if (tasks[i] == 0) {
            close(gate[1]);
            if (noted)
                note("sbseal task=%u pid=%d", i, getpid());
            if (count > 1)
                number_variables(environment, i);
            if (write(ready[1], word, 1) != 1 || read(gate[0], word, 1) != 1)
                _exit(REFUSED);
            start(command, environment);
        }
        setpgid(tasks[i], tasks[i]); /* as it does itself: whichever comes first */
    }
    close(ready[1]);
    for (unsigned i = 0; i < count; i++)
        if (read(ready[0], word, 1) != 1)
            fail("a task has ended before it began");
    started = 1;
    if (write(gate[1], word, count) != (ssize_t)count)
        fail("the program cannot be let go: %s", strerror(errno));
    for (size_t i = 0; i < 2; i++)
        close(gate[i]);
    close(ready[0]);
}

/* Until all tasks have ended well, or one has not. */
static int follow(pid_t *tasks, unsigned count, const sigset_t *held) {
    int signals = open_signals(held);
    for (unsigned left = count;;) {
        int number = next_signal(signals);
        for (unsigned i = 0; i < count; i++)
            if (number != SIGCHLD && tasks[i])
                kill(-tasks[i], number); /* its process group: a shell and what it runs */
        int status;
        pid_t ended;
        while ((ended = waitpid(-1, &status, WNOHANG)) > 0)
            for (unsigned i = 0; i < count; i++)
                if (tasks[i] == ended) {
                    tasks[i] = 0; /* the number may be given again */
                    if (status_code(status) || !--left)
                        return status_code(status);
                }
    }
}

#include "agent.h"

int main(int count, char **arguments) {
    int code = as_agent(count, arguments);
    if (code >= 0)
        return code;
    if (count != 7)
        fail("usage: sbseal FOLDER nproc=N nofile=N fsize=BYTES tasks=N refused=noted|silent");
    const char *folder = arguments[1];
    rlim_t task_count = number_of(arguments[5], "tasks");
    if (task_count < 1 || task_count > MOST_TASKS)
        fail("%s: not between 1 and %d", arguments[5], MOST_TASKS);
    set_noted(arguments[6]);
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

    static pid_t tasks[MOST_TASKS];
    start_all(tasks, (unsigned)task_count, command, environment);
    close(FACTS);
    close(GATE);
    return follow(tasks, (unsigned)task_count, &held);
}

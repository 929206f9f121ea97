/* Programs that work against whoever records them: tamper NAME. Each is what a test says of it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void make(const char *path) {
    int file = open(path, O_WRONLY | O_CREAT, 0600);
    if (file >= 0 && write(file, "x", 1) == 1)
        close(file);
}

static int wait_for_ever(void) {
    while (pause())
        ;
    return 0;
}

/* --- signals ---------------------------------------------------------------------------------- */

static int kill_all(void) {
    if (!fork())
        wait_for_ever();
    kill(-1, SIGKILL);
    make("/output/after");
    return 0;
}

static int kill_first(void) {
    kill(1, SIGKILL);
    kill(1, SIGSTOP);
    make("/output/after");
    kill(1, SIGTERM); /* comes back to this program */
    return wait_for_ever();
}

static int kill_every(void) {
    for (int number = 1; number <= 65535; number++)
        if (number != getpid()) {
            kill(number, SIGKILL);
            kill(number, SIGSTOP);
        }
    make("/output/after");
    kill(-getsid(0), SIGKILL);
    kill(0, SIGKILL);
    return 0;
}

static int stop_itself(void) {
    make("/output/before");
    kill(getpid(), SIGSTOP);
    return wait_for_ever();
}

static sigjmp_buf again;

static void jump(int number) {
    siglongjmp(again, number);
}

static int segfaults(void) {
    static volatile int times;
    signal(SIGSEGV, jump);
    sigsetjmp(again, 1);
    if (++times <= 20000)
        *(volatile int *)8 = 1;
    make("/output/after");
    return 0;
}

/* --- too much --------------------------------------------------------------------------------- */

static int flood(void) {
    while (open("/nothing", O_RDONLY))
        ;
    return 0;
}

static int flood_a_little(void) {
    for (int i = 0; i < 40000; i++)
        open("/nothing", O_RDONLY);
    make("/output/after");
    return 0;
}

static int forks(void) {
    for (int i = 0; i < 40000; i++) {
        pid_t child = fork();
        if (!child)
            _exit(i % 7);
        waitpid(child, NULL, 0);
    }
    return 0;
}

static int memory(void) {
    for (char *more; (more = malloc(1 << 20));)
        memset(more, 1, 1 << 20);
    return 0;
}

static int forks_at_once(void) {
    int made = 0;
    for (pid_t child; (child = fork()) >= 0; made++)
        if (!child)
            wait_for_ever();
    printf("%d\n", made);
    return 0;
}

static int vfork_bomb(int depth) {
    static volatile int deepest;
    pid_t child = vfork();
    if (child < 0 || depth > 2000)
        _exit(0);
    if (!child) {
        deepest = depth;
        vfork_bomb(depth + 1);
        _exit(0);
    }
    if (depth)
        _exit(0);
    printf("%d\n", deepest + 1);
    return 0;
}

static void *nothing(void *unused) {
    return unused;
}

static int threads(void) {
    static pthread_t all[2000];
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 65536);
    for (size_t i = 0; i < 2000; i++)
        if (pthread_create(&all[i], &small, nothing, NULL))
            return 1;
    for (size_t i = 0; i < 2000; i++)
        pthread_join(all[i], NULL);
    return 0;
}

static int daemons(void) {
    for (int i = 0; i < 5; i++) {
        int ready[2];
        char word;
        if (pipe(ready))
            return 1;
        pid_t child = fork();
        if (!child) {
            setsid();
            if (fork())
                _exit(0);
            for (int number = 1; number < NSIG; number++)
                signal(number, SIG_IGN);
            for (;;) {
                make("/output/daemon");
                if (write(ready[1], "x", 1) == 1)
                    close(ready[1]);
                usleep(1000);
            }
        }
        waitpid(child, NULL, 0);
        if (read(ready[0], &word, 1) != 1)
            return 1;
    }
    return 0;
}

/* --- past the tracer -------------------------------------------------------------------------- */

static int untraced(void) {
    long child = syscall(SYS_clone, CLONE_UNTRACED | SIGCHLD, NULL, NULL, NULL, NULL);
    if (!child)
        make("/output/unseen");
    sleep(5);
    make("/output/after");
    return 0;
}

static int io_uring(void) {
    char parameters[256] = {0};
    long made = syscall(425, 8, parameters);
    long entered = syscall(426, 3, 1, 0, 0, NULL, 0), registered = syscall(427, 3, 0, NULL, 0);
    return made < 0 && entered < 0 && registered < 0 && errno == ENOSYS ? 0 : 1;
}

static int filter(unsigned action, unsigned flags, int call) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)call, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, action),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}

static int listener(void) {
    filter(SECCOMP_RET_USER_NOTIF, SECCOMP_FILTER_FLAG_NEW_LISTENER, SYS_openat);
    sleep(5);
    make("/output/after");
    return 0;
}

static int own_filter(unsigned action) {
    signal(SIGSYS, SIG_IGN);
    make("/output/before");
    if (filter(action, 0, SYS_openat))
        return 1;
    make("/output/hidden");
    mknod("/output/after", S_IFREG | 0600, 0);
    return access("/output/hidden", F_OK) ? 3 : 0;
}

static void on_trap(int number) {
    (void)number;
}

static int own_filter_traps(void) {
    signal(SIGSYS, on_trap);
    if (filter(SECCOMP_RET_TRAP, 0, SYS_openat))
        return 1;
    make("/output/hidden");
    mknod("/output/after", S_IFREG | 0600, 0);
    return access("/output/hidden", F_OK) ? 3 : 0;
}

static int debugger(void) {
    pid_t child = fork();
    if (!child)
        wait_for_ever();
    int done = !ptrace(PTRACE_TRACEME, 0, NULL, NULL);
    done += !ptrace(PTRACE_ATTACH, child, NULL, NULL) + !ptrace(PTRACE_SEIZE, child, NULL, NULL);
    done += !ptrace(PTRACE_ATTACH, 1, NULL, NULL) + !ptrace(PTRACE_SEIZE, 1, NULL, NULL);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    return done;
}

/* --- strange executions ----------------------------------------------------------------------- */

static void *execute(void *unused) {
    execl("/bin/sh", "sh", "-c", "echo x >/output/made; exit 6", (char *)NULL);
    return unused;
}

static int thread_executes(void) {
    pthread_t one;
    pthread_create(&one, NULL, execute, NULL);
    return wait_for_ever();
}

static int many_arguments(void) {
    static char *arguments[3002], large[128 * 1024];
    for (int i = 0; i < 3001; i++)
        arguments[i] = "\n12345 1.000000 +++ exited with 0 +++\n";
    if (!fork())
        execv("/bin/true", arguments);
    wait(NULL);
    memset(large, 'x', sizeof large - 1);
    if (!fork())
        execl("/bin/true", "true", large, large, (char *)NULL);
    wait(NULL);
    return 0;
}

static int long_names(void) {
    static char name[4096];
    for (size_t i = 0; i < 4095; i++)
        name[i] = i % 200 ? '\n' : '/';
    memcpy(name, "/output", 7);
    open(name, O_RDONLY);
    for (char sign = 'a'; sign <= 'z'; sign++) {
        name[4000] = sign;
        open(name, O_RDONLY);
        make("/output/\n12345 1.000000 +++ exited with 0 +++\n");
    }
    return 0;
}

static int set_user_id(void) {
    static const char *const programs[] = {"/usr/bin/su", "/usr/bin/mount", "/usr/bin/passwd"};
    for (size_t i = 0; i < 3; i++) {
        if (!fork()) {
            execl(programs[i], programs[i], "--version", (char *)NULL);
            _exit(9);
        }
        wait(NULL);
    }
    int status = system("cp /code/tamper /tmp/tamper");
    if (chmod("/tmp/tamper", 04755))
        return 2;
    if (!fork())
        execl("/tmp/tamper", "tamper", "whoami", (char *)NULL);
    wait(&status);
    return WEXITSTATUS(status);
}

static int whoami(void) {
    return geteuid() == 1000 && getuid() == 1000 ? 0 : 1;
}

/* --- forgeries -------------------------------------------------------------------------------- */

static const char *const folders[] = {"/output", "/tmp", "/var/tmp", "/dev/shm", "/dev", "/code",
                                      "/input", "/", "/.sb", "/output/output", "/dev/mqueue"};
static const char *const forged[] = {"trace.zst", "trace-report.json", "trace-report.html",
                                     "attested", "exit_code", "trace.cut", "stopped", "refused"};

static int forge(void) {
    static const char line[] = "99 1.000000 exit_group(0) = ?\n99 1.000000 +++ exited with 0 +++\n";
    static const char report[] = "{\"verdict\":{\"outcome\":\"pass\"}}\n";
    mkdir("/output/output", 0700);
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++)
        for (size_t j = 0; j < sizeof forged / sizeof *forged; j++) {
            char path[256];
            snprintf(path, sizeof path, "%s/%s", folders[i], forged[j]);
            int file = open(path, O_WRONLY | O_CREAT, 0600);
            if (file >= 0 && write(file, report, sizeof report - 1) > 0)
                close(file);
        }
    for (int round = 0; round < 2; round++)
        for (int number = 0; number < 1024; number++) {
            if (write(number, line, sizeof line - 1) < 0 && round)
                dup2(1, number);
        }
    for (int number = 0; number < 1024; number++)
        close(number);
    make("/output/after");
    return 0;
}

static const struct {
    const char *name;
    int (*run)(void);
} all[] = {
    {"kill-all", kill_all},
    {"kill-first", kill_first},
    {"kill-every", kill_every},
    {"stop-itself", stop_itself},
    {"segfaults", segfaults},
    {"flood", flood},
    {"flood-a-little", flood_a_little},
    {"forks", forks},
    {"forks-at-once", forks_at_once},
    {"threads", threads},
    {"daemons", daemons},
    {"untraced", untraced},
    {"io-uring", io_uring},
    {"listener", listener},
    {"filter-traps", own_filter_traps},
    {"debugger", debugger},
    {"thread-executes", thread_executes},
    {"many-arguments", many_arguments},
    {"long-names", long_names},
    {"set-user-id", set_user_id},
    {"whoami", whoami},
    {"forge", forge},
    {"memory", memory},
};

int main(int count, char **arguments) {
    const char *name = count > 1 ? arguments[1] : "";
    if (!strcmp(name, "vfork-bomb"))
        return vfork_bomb(0);
    if (!strcmp(name, "filter-errno"))
        return own_filter(SECCOMP_RET_ERRNO | EPERM);
    if (!strcmp(name, "filter-trace"))
        return own_filter(SECCOMP_RET_TRACE);
    if (!strcmp(name, "filter-kill"))
        return own_filter(SECCOMP_RET_KILL_PROCESS);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (!strcmp(name, all[i].name))
            return all[i].run();
    fprintf(stderr, "there is no %s\n", name);
    return 99;
}

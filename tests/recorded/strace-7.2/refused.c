/* Asks for what sbseal refuses: from a process, a thread, a child and a child of vfork; and at the
 * end, with an argument, for what ends the container. Recorded as the one task, with `audit` and
 * with `full`, in a process namespace, with the options of sbatch_templates/parts/program.j2. Of the
 * launcher and the probe, the lines are left out that do not tell who is who. */
#define _GNU_SOURCE
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void *in_thread(void *none) {
    syscall(SYS_ptrace, 0, 0, 0, 0);
    return none;
}

int main(int count, char **arguments) {
    unshare(CLONE_NEWUSER);
    syscall(SYS_io_uring_setup, 1, 0);
    socket(40 /* AF_VSOCK */, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socket(AF_NETLINK, SOCK_RAW, 9);
    socket(AF_INET, SOCK_STREAM, 132);
    socket(AF_INET6, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 58);
    socket(99, SOCK_DGRAM, 7);
    socketpair(AF_INET, SOCK_STREAM, 262, (int[2]){0, 0});
    syscall(SYS_bpf, 0, 0, 0);
    syscall(457 /* statmount */, 0, 0, 0, 0);
    syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
    syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);
    syscall(SYS_clone3, 0, 0);
    ioctl(0, TIOCSTI, "");
    syscall(9999, 1, 2, 3, 4, 5, 6);
    syscall(0x40000000 | SYS_getpid);
    pthread_t thread;
    pthread_create(&thread, NULL, in_thread, NULL);
    pthread_join(thread, NULL);
    pid_t child = fork();
    if (child == 0) {
        setns(-1, 0);
        _exit(0);
    }
    waitpid(child, NULL, 0);
    child = vfork();
    if (child == 0) {
        syscall(SYS_mount, 0, 0, 0, 0, 0);
        _exit(0);
    }
    waitpid(child, NULL, 0);
    if (count > 1 && !strcmp(arguments[1], "clone"))
        syscall(SYS_clone, CLONE_UNTRACED | SIGCHLD, 0, 0, 0, 0);
    if (count > 1 && !strcmp(arguments[1], "listener"))
        syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, arguments);
    return 5;
}

/* The agent of a pod: it starts tasks in its pod for who holds the secret of the job.
 *
 *   sbseal first PODS SECONDS PROGRAM ARGUMENT...
 *                          in the first pod: awaits all others, runs the program, ends as it does
 *   sbseal next            in each other pod: until the first one has ended
 *   rsh HOST COMMAND...    from a task: runs a command in the pod of HOST, by /bin/sh as ssh would,
 *                          and ends as it does
 *
 * It runs below sbseal's process 1, behind the system call filter and without any privilege, as the
 * tasks themselves do: it is no part of the seal. It hears only on the job's own network, where
 * only pods of this job are. Each connection begins with the secret, which lies in a file that all
 * tasks of the job can read, and nobody else.
 *
 * After the secret both sides send frames: a letter, the length in four bytes, the most significant
 * first, and so many bytes.
 *
 *   to the agent    r COMMAND   run it          w   watch: stay until the first pod ends
 *                   i BYTES     its input       x   end of its input
 *                   q           the first pod has ended
 *   from the agent  o, e BYTES  its output      c   its exit code, one byte         k   ready
 *
 * Who hangs up has what it ran killed; a watcher that hangs up without q ends the pod.
 */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <time.h>

enum {
    AGENT_PORT = 48791,
    SECRET_BYTES = 64,
    FRAME_BYTES = 64 * 1024,
    COMMAND_BYTES = 128 * 1024,
    MOST_PODS = 4096,
    LOST = 70,          /* EX_SOFTWARE */
    UNREACHABLE = 255,  /* as ssh says it */
};

/* --- bytes ----------------------------------------------------------------------------------- */

static int write_all(int file, const void *bytes, size_t size) {
    const char *next = bytes;
    while (size) {
        ssize_t written = write(file, next, size);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return -1;
        next += written;
        size -= (size_t)written;
    }
    return 0;
}

static int read_all(int file, void *bytes, size_t size) {
    char *next = bytes;
    while (size) {
        ssize_t got = read(file, next, size);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return -1;
        next += got;
        size -= (size_t)got;
    }
    return 0;
}

static int send_frame(int peer, char letter, const void *bytes, size_t size) {
    unsigned char head[5] = {(unsigned char)letter, (unsigned char)(size >> 24),
                             (unsigned char)(size >> 16), (unsigned char)(size >> 8),
                             (unsigned char)size};
    if (write_all(peer, head, sizeof head))
        return -1;
    return write_all(peer, bytes, size);
}

/* Its letter, or 0 at the end and for what is too long. There is room for `most` and a NUL. */
static char receive_frame(int peer, char *bytes, size_t most, size_t *size) {
    unsigned char head[5];
    if (read_all(peer, head, sizeof head))
        return 0;
    *size = (size_t)head[1] << 24 | (size_t)head[2] << 16 | (size_t)head[3] << 8 | head[4];
    if (*size > most || read_all(peer, bytes, *size))
        return 0;
    bytes[*size] = 0;
    return (char)head[0];
}

/* It lies beside this program. */
static void read_secret(char *secret) {
    char folder[4096];
    ssize_t length = readlink("/proc/self/exe", folder, sizeof folder - 1);
    if (length < 0)
        fail("/proc/self/exe: %s", strerror(errno));
    folder[length] = 0;
    *strrchr(folder, '/') = 0;
    int file = open(path_of(folder, "secret"), O_RDONLY | O_CLOEXEC);
    if (file < 0 || read_all(file, secret, SECRET_BYTES))
        fail("the secret of the job cannot be read");
    close(file);
}

/* As long for a wrong one as for a right one. */
static int is_secret(const char *given, const char *secret) {
    unsigned char differs = 0;
    for (size_t i = 0; i < SECRET_BYTES; i++)
        differs |= (unsigned char)(given[i] ^ secret[i]);
    return !differs;
}

static void set_prompt(int peer) {
    int on = 1;
    setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(peer, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
}

/* --- the agent ------------------------------------------------------------------------------- */

struct ran {
    pid_t child;
    int input, output, errors;
};

static void usual_signals(void) {
    sigset_t none;
    sigemptyset(&none);
    for (int number = 1; number < NSIG; number++)
        signal(number, SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* In a session of its own: all that it starts can be ended with it, and no signal that is meant for
 * the program of the first pod comes to it. */
static struct ran run_command(const char *command) {
    int input[2], output[2], errors[2];
    if (pipe2(input, O_CLOEXEC) || pipe2(output, O_CLOEXEC) || pipe2(errors, O_CLOEXEC))
        fail("pipe: %s", strerror(errno));
    pid_t child = fork();
    if (child < 0)
        fail("fork: %s", strerror(errno));
    if (child == 0) {
        setsid();
        usual_signals();
        if (dup2(input[0], 0) < 0 || dup2(output[1], 1) < 0 || dup2(errors[1], 2) < 0)
            _exit(REFUSED);
        close_from(3);
        execl("/bin/sh", "sh", "-c", command, NULL);
        fprintf(stderr, "/bin/sh: %s\n", strerror(errno));
        _exit(127);
    }
    close(input[0]);
    close(output[1]);
    close(errors[1]);
    return (struct ran){child, input[1], output[0], errors[0]};
}

/* Until who asked hangs up. A process of its own, which waits for a command that does not read. */
static void feed(int peer, struct ran ran) {
    static char bytes[FRAME_BYTES + 1];
    size_t size;
    char letter;
    close(ran.output);
    close(ran.errors);
    while ((letter = receive_frame(peer, bytes, FRAME_BYTES, &size)) == 'i' || letter == 'x')
        if (ran.input >= 0 && (letter == 'x' || write_all(ran.input, bytes, size))) {
            close(ran.input);
            ran.input = -1;
        }
    kill(-ran.child, SIGKILL);
    _exit(0);
}

/* 0 at its end, -1 when nobody hears it. */
static int pass_on(int from, int peer, char letter) {
    char bytes[FRAME_BYTES];
    ssize_t got = read(from, bytes, sizeof bytes);
    if (got < 0 && errno == EINTR)
        return 1;
    if (got <= 0)
        return 0;
    return send_frame(peer, letter, bytes, (size_t)got) ? -1 : 1;
}

/* Until the end of both outputs, as ssh: what goes on in the background has to close them. */
static void relay(int peer, struct ran ran) {
    struct pollfd both[] = {{ran.output, POLLIN, 0}, {ran.errors, POLLIN, 0}};
    while (both[0].fd >= 0 || both[1].fd >= 0) {
        poll(both, 2, -1);
        for (int i = 0; i < 2; i++)
            if (both[i].fd >= 0 && both[i].revents && pass_on(both[i].fd, peer, "oe"[i]) <= 0) {
                close(both[i].fd);
                both[i].fd = -1;
            }
    }
}

static void serve_command(int peer, const char *command) {
    struct ran ran = run_command(command);
    pid_t feeder = fork();
    if (feeder < 0)
        fail("fork: %s", strerror(errno));
    if (feeder == 0)
        feed(peer, ran);
    close(ran.input);
    relay(peer, ran);
    int status;
    while (waitpid(ran.child, &status, 0) < 0 && errno == EINTR)
        ;
    kill(feeder, SIGKILL);
    unsigned char code = (unsigned char)status_code(status);
    send_frame(peer, 'c', &code, 1);
    /* Until who asked has heard it: to close while input has not been read would take it back. */
    shutdown(peer, SHUT_WR);
    static char rest[FRAME_BYTES];
    while (read(peer, rest, sizeof rest) > 0)
        ;
    _exit(0);
}

/* Ends the pod with its agent: USR1 when the first one has ended, USR2 when it is lost. */
static void serve_watcher(int peer, pid_t agent) {
    char bytes[2];
    size_t size;
    if (send_frame(peer, 'k', "", 0) == 0)
        kill(agent, receive_frame(peer, bytes, 1, &size) == 'q' ? SIGUSR1 : SIGUSR2);
    _exit(0);
}

static void serve_one(int peer, const char *secret, pid_t agent) {
    static char bytes[COMMAND_BYTES + 1];
    struct timeval patience = {10, 0}, none = {0, 0};
    size_t size;
    set_prompt(peer);
    /* Who connects and says nothing does not stay. */
    setsockopt(peer, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (read_all(peer, bytes, SECRET_BYTES) || !is_secret(bytes, secret))
        _exit(1);
    char letter = receive_frame(peer, bytes, COMMAND_BYTES, &size);
    setsockopt(peer, SOL_SOCKET, SO_RCVTIMEO, &none, sizeof none);
    if (letter == 'r')
        serve_command(peer, bytes);
    if (letter == 'w')
        serve_watcher(peer, agent);
    _exit(1);
}

static int listen_here(void) {
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(AGENT_PORT)};
    int on = 1, listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listening < 0 || setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) ||
        bind(listening, (struct sockaddr *)&here, sizeof here) || listen(listening, 1024))
        fail("port %d: %s", AGENT_PORT, strerror(errno));
    return listening;
}

/* Never returns. */
static void serve(int listening, const char *secret) {
    pid_t agent = getpid();
    signal(SIGCHLD, SIG_IGN);
    for (;;) {
        int peer = accept4(listening, NULL, NULL, SOCK_CLOEXEC);
        if (peer < 0)
            continue;
        if (fork() == 0) {
            signal(SIGCHLD, SIG_DFL);
            close(listening);
            serve_one(peer, secret, agent);
        }
        close(peer);
    }
}

/* --- who asks -------------------------------------------------------------------------------- */

/* By /etc/hosts alone: there is nobody else to ask. 0 when it is not there. */
static int find_host(const char *host, struct in_addr *address) {
    char text[512], number[64], name[256];
    int known = inet_pton(AF_INET, host, address) == 1;
    FILE *hosts = known ? NULL : fopen("/etc/hosts", "re");
    while (hosts && !known && fgets(text, sizeof text, hosts))
        known = sscanf(text, "%63s %255s", number, name) == 2 && !strcmp(name, host) &&
                inet_pton(AF_INET, number, address) == 1;
    if (hosts)
        fclose(hosts);
    return known;
}

/* -1 where nobody hears. */
static int connect_to(const char *host, const char *secret) {
    struct sockaddr_in there = {.sin_family = AF_INET, .sin_port = htons(AGENT_PORT)};
    if (!find_host(host, &there.sin_addr))
        fail("%s is no node of this job", host);
    int peer = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (peer < 0)
        fail("socket: %s", strerror(errno));
    set_prompt(peer);
    if (connect(peer, (struct sockaddr *)&there, sizeof there) == 0 &&
        write_all(peer, secret, SECRET_BYTES) == 0)
        return peer;
    close(peer);
    return -1;
}

/* Input is sent by a process of its own: a command may say much before it reads. */
static int follow_command(int peer, const char *host) {
    static char bytes[FRAME_BYTES + 1];
    size_t size;
    pid_t sender = fork();
    if (sender < 0)
        fail("fork: %s", strerror(errno));
    if (sender == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        while (pass_on(0, peer, 'i') > 0)
            ;
        send_frame(peer, 'x', "", 0);
        _exit(0);
    }
    for (;;) {
        char letter = receive_frame(peer, bytes, FRAME_BYTES, &size);
        if (letter == 'o' || letter == 'e') {
            write_all(letter == 'o' ? 1 : 2, bytes, size);
            continue;
        }
        kill(sender, SIGKILL);
        if (letter == 'c')
            return (unsigned char)*bytes;
        fprintf(stderr, "rsh: the pod of %s has ended\n", host);
        return UNREACHABLE;
    }
}

/* Options are those of ssh, and mean nothing here; some have a value. */
static int rsh(char **arguments) {
    char command[COMMAND_BYTES + 1] = "", secret[SECRET_BYTES];
    size_t length = 0;
    while (*arguments && **arguments == '-') {
        char letter = (*arguments)[1];
        int has_value = letter && strchr("lop", letter) && !(*arguments)[2] && arguments[1];
        arguments += has_value ? 2 : 1;
    }
    const char *host = *arguments;
    if (!host || !arguments[1])
        fail("usage: rsh HOST COMMAND...");
    while (*++arguments) {
        int added = snprintf(command + length, sizeof command - length, "%s%s", length ? " " : "",
                             *arguments);
        length += (size_t)added;
        if (length >= sizeof command)
            fail("the command is longer than %d bytes", COMMAND_BYTES);
    }
    signal(SIGPIPE, SIG_IGN);
    read_secret(secret);
    int peer = connect_to(host, secret);
    if (peer < 0 || send_frame(peer, 'r', command, length)) {
        fprintf(stderr, "rsh: %s: %s\n", host, strerror(errno));
        return UNREACHABLE;
    }
    return follow_command(peer, host);
}

/* --- the pods -------------------------------------------------------------------------------- */

static void first_has_ended(int number) {
    _exit(number == SIGUSR1 ? 0 : LOST);
}

/* TERM is for the program, which the first pod ends with. */
static void set_agent_signals(void) {
    signal(SIGPIPE, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGUSR1, SIG_IGN);
    signal(SIGUSR2, SIG_IGN);
}

static int next_pod(void) {
    char secret[SECRET_BYTES];
    read_secret(secret);
    set_agent_signals();
    signal(SIGUSR1, first_has_ended);
    signal(SIGUSR2, first_has_ended);
    serve(listen_here(), secret);
    return LOST;
}

/* The others come when they are ready: each image is checked on its own node. */
static int await_pod(unsigned number, const char *secret, time_t until) {
    char host[16], bytes[2];
    size_t size;
    snprintf(host, sizeof host, "sb%u", number);
    for (;;) {
        int peer = connect_to(host, secret);
        if (peer >= 0 && send_frame(peer, 'w', "", 0) == 0 &&
            receive_frame(peer, bytes, 1, &size) == 'k')
            return peer;
        if (peer >= 0)
            close(peer);
        struct timespec now, pause = {0, 20 * 1000 * 1000};
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (now.tv_sec >= until)
            fail("the pod of %s is not there", host);
        nanosleep(&pause, NULL);
    }
}

/* How the program ended; LOST when a pod was lost before. */
static int watch_pods(struct pollfd *files, unsigned pods, pid_t program) {
    int status, code = -1;
    for (time_t until = 0;;) {
        struct timespec now;
        struct signalfd_siginfo signal;
        poll(files, pods, until ? 100 : -1);
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (files[0].revents && read(files[0].fd, &signal, sizeof signal) < 0)
            return LOST;
        pid_t ended;
        while ((ended = waitpid(-1, &status, WNOHANG)) > 0)
            if (ended == program)
                return code < 0 ? status_code(status) : code;
        for (unsigned i = 1; i < pods && code < 0; i++)
            if (files[i].revents) {
                fprintf(stderr, "sbseal: the pod of sb%u has ended, so the program is ended\n",
                        i + 1);
                code = LOST;
                until = now.tv_sec + 5;
                kill(program, SIGTERM);
                files[i].fd = -1;
            }
        if (until && now.tv_sec >= until)
            return code;
    }
}

static int first_pod(char **arguments) {
    static struct pollfd files[MOST_PODS];
    char secret[SECRET_BYTES];
    struct timespec now;
    unsigned pods = (unsigned)atoi(arguments[0]);
    if (pods < 1 || pods > MOST_PODS)
        fail("%s: not between 1 and %d", arguments[0], MOST_PODS);
    read_secret(secret);
    set_agent_signals();
    int listening = listen_here();
    pid_t agent = fork();
    if (agent < 0)
        fail("fork: %s", strerror(errno));
    if (agent == 0)
        serve(listening, secret);
    close(listening);
    clock_gettime(CLOCK_MONOTONIC, &now);
    time_t until = now.tv_sec + atoi(arguments[1]);
    for (unsigned i = 1; i < pods; i++)
        files[i] = (struct pollfd){await_pod(i + 1, secret, until), POLLIN, 0};
    sigset_t ends;
    sigemptyset(&ends);
    sigaddset(&ends, SIGCHLD);
    sigprocmask(SIG_BLOCK, &ends, NULL);
    files[0] = (struct pollfd){open_signals(&ends), POLLIN, 0};
    pid_t program = fork();
    if (program < 0)
        fail("fork: %s", strerror(errno));
    if (program == 0) {
        usual_signals();
        execvp(arguments[2], arguments + 2);
        fprintf(stderr, "%s: %s\n", arguments[2], strerror(errno));
        _exit(errno == ENOENT || errno == ENOTDIR ? 127 : 126);
    }
    int code = watch_pods(files, pods, program);
    for (unsigned i = 1; i < pods; i++)
        send_frame(files[i].fd, 'q', "", 0);
    return code;
}

/* What is asked of it by its name or first word; -1: to seal. */
static int as_agent(int count, char **arguments) {
    const char *name = strrchr(arguments[0], '/');
    if (!strcmp(name ? name + 1 : arguments[0], "rsh"))
        return rsh(arguments + 1);
    if (count >= 5 && !strcmp(arguments[1], "first"))
        return first_pod(arguments + 2);
    if (count == 2 && !strcmp(arguments[1], "next"))
        return next_pod();
    return -1;
}

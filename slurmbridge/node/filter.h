/* sbseal's system call filter: which calls are refused, and with which error. docs/sbseal.md gives the
 * reasons. Included by sbseal.c alone, after `fail`.
 */
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/sockios.h>
#include <sched.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#if defined(__x86_64__)
#define NATIVE AUDIT_ARCH_X86_64
#elif defined(__aarch64__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define NATIVE AUDIT_ARCH_AARCH64
#else
#error "sbseal knows x86-64 and little-endian 64-bit ARM"
#endif

/* removexattrat, Linux 6.13: what comes after has not been reviewed, and does not exist here. */
enum { NEWEST_CALL = 466 };
/* From 424 on, numbers are the same on all architectures; libc's headers may lack the latest names. */
enum { quotactl_fd = 443, memfd_secret = 447, statmount = 457, listmount = 458,
       lsm_set_self_attr = 460 };

/* libc asks for it all the time, and then takes clone. It is never noted. */
static const unsigned not_there_unnoted[] = {SYS_clone3};

/* Whoever asks for these goes on without, when it seems that the kernel lacks them. */
static const unsigned not_there[] = {
    SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register, memfd_secret, statmount,
    listmount, lsm_set_self_attr,
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
/* Whether this process is asked before a call is refused. */
static int noted;

static void add(unsigned short code, unsigned k, unsigned char yes, unsigned char no) {
    if (length == sizeof filter / sizeof *filter)
        fail("the filter is too long");
    filter[length++] = (struct sock_filter)BPF_JUMP(code, k, yes, no);
}

static void load(unsigned offset) { add(BPF_LD | BPF_W | BPF_ABS, offset, 0, 0); }
static void answer(unsigned what) { add(BPF_RET | BPF_K, what, 0, 0); }

/* The kernel passes no error on to who is asked, and does not look at it: see `verdict`. */
static unsigned refusal(unsigned error) {
    return (noted ? SECCOMP_RET_USER_NOTIF : SECCOMP_RET_ERRNO) | error;
}

static void refuse(unsigned error) { answer(refusal(error)); }

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

static void answer_each(const unsigned *calls, size_t count, unsigned what) {
    for (size_t i = 0; i < count; i++) {
        add(BPF_JMP | BPF_JEQ | BPF_K, calls[i], 0, 1);
        answer(what);
    }
}

static void add_ioctl(void) {
    begin(SYS_ioctl, 2 + 2 * sizeof ioctls / sizeof *ioctls);
    load_argument(1);
    answer_each(ioctls, sizeof ioctls / sizeof *ioctls, refusal(EPERM));
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
    answer_each(not_there_unnoted, 1, SECCOMP_RET_ERRNO | ENOSYS);
    answer_each(not_there, sizeof not_there / sizeof *not_there, refusal(ENOSYS));
    answer_each(not_permitted, sizeof not_permitted / sizeof *not_permitted, refusal(EPERM));
    refuse_bits(SYS_clone, 0, CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID |
                CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP | CLONE_UNTRACED |
                CLONE_PARENT);
    refuse_bits(SYS_seccomp, 1, SECCOMP_FILTER_FLAG_NEW_LISTENER);
    add_socket(SYS_socket);
    add_socket(SYS_socketpair);
    add_ioctl();
    answer(SECCOMP_RET_ALLOW);
}

/* What the filter answers to a call, with the error: one account of the rules for kernel and note. */
static unsigned verdict(const struct seccomp_data *call) {
    unsigned value = 0;
    for (const struct sock_filter *at = filter;; at++) {
        switch (at->code) {
        case BPF_LD | BPF_W | BPF_ABS:
            memcpy(&value, (const char *)call + at->k, sizeof value);
            break;
        case BPF_ALU | BPF_AND | BPF_K:
            value &= at->k;
            break;
        case BPF_JMP | BPF_JEQ | BPF_K:
            at += value == at->k ? at->jt : at->jf;
            break;
        case BPF_JMP | BPF_JGT | BPF_K:
            at += value > at->k ? at->jt : at->jf;
            break;
        case BPF_JMP | BPF_JSET | BPF_K:
            at += value & at->k ? at->jt : at->jf;
            break;
        default: /* BPF_RET | BPF_K: there is no other */
            return at->k;
        }
    }
}

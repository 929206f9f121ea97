/* Puts the tasks of a step that asks for it into the private network of its job.
 *
 * A step asks by SLURMBRIDGE_NETWORK=private in its environment. Its tasks then find themselves in the
 * network namespace that `sbnetwork prolog` has made for their own job on this node, with a /sys that
 * shows that network and an /etc/hosts that names the job's nodes (sb1, sb2, ...). A step that asks
 * where there is no such network does not run. Batch scripts, steps that do not ask, and all other
 * jobs are untouched: for them this plugin looks at one variable and returns.
 *
 * It runs in each task between fork and exec, as root, before Slurm takes the task's privileges away
 * (slurm_spank_task_init_privileged, see spank(7)); slurmstepd itself stays where it is. The only
 * thing it takes from the user is that variable, which it compares with one word.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <slurm/spank.h>

SPANK_PLUGIN(sbnetwork, 1);

#define VARIABLE "SLURMBRIDGE_NETWORK"
#define WORD "private"
/* Step ids from here on are batch scripts, allocations and the like (slurm.h). */
#define FIRST_PSEUDO_STEP 0xfffffff0u

static int refuse(uint32_t job, const char *what)
{
    slurm_error("sbnetwork: job %u: %s: %s; the task does not run", job, what, strerror(errno));
    return -1;
}

/* Root's own, and no link: what lies in /run/netns is a mount that `ip netns add` has made. */
static int open_namespace(const char *path)
{
    struct stat found;
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -1;
    if (fstat(fd, &found) < 0 || found.st_uid != 0) {
        close(fd);
        errno = EPERM;
        return -1;
    }
    return fd;
}

static int enter(uint32_t job)
{
    char path[64];
    int fd;

    snprintf(path, sizeof path, "/run/slurmbridge/networks/%u/ready", job);
    if (access(path, F_OK) < 0)
        return refuse(job, "it has no private network on this node");
    snprintf(path, sizeof path, "/run/netns/sb-%u", job);
    if ((fd = open_namespace(path)) < 0)
        return refuse(job, path);
    if (setns(fd, CLONE_NEWNET) < 0) {
        close(fd);
        return refuse(job, "setns");
    }
    close(fd);
    if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
        return refuse(job, "a mount namespace of its own");
    /* The node's /sys shows the node's devices, which libraries then try to use. */
    if (umount2("/sys", MNT_DETACH) < 0 && errno != EINVAL)
        return refuse(job, "umount /sys");
    if (mount("sysfs", "/sys", "sysfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
        return refuse(job, "mount /sys");
    snprintf(path, sizeof path, "/run/slurmbridge/networks/%u/hosts", job);
    if (mount(path, "/etc/hosts", NULL, MS_BIND, NULL) < 0)
        return refuse(job, "mount /etc/hosts");
    return 0;
}

int slurm_spank_task_init_privileged(spank_t spank, int ac, char **av)
{
    char value[sizeof WORD + 1] = "";
    uint32_t job = 0, step = 0;
    spank_err_t found = spank_getenv(spank, VARIABLE, value, sizeof value);

    (void)ac;
    (void)av;
    if (found == ESPANK_ENV_NOEXIST)
        return 0;
    if (spank_get_item(spank, S_JOB_ID, &job) != ESPANK_SUCCESS ||
        spank_get_item(spank, S_JOB_STEPID, &step) != ESPANK_SUCCESS) {
        errno = EINVAL;
        return refuse(job, "its number is not known");
    }
    if (step >= FIRST_PSEUDO_STEP)
        return 0;
    if (found != ESPANK_SUCCESS || strcmp(value, WORD) != 0) {
        errno = EINVAL;
        return refuse(job, VARIABLE " is not " WORD);
    }
    return enter(job);
}

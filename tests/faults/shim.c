/* Preloaded into a process: counts what it changes below one folder, and strikes at the N-th change.
 *
 * All calls are made as system calls, so that nothing in the C library is looked up. Copies inside the kernel are
 * refused below the folder: callers then write, which is counted. Syncs below the folder are counted and recorded only:
 * a process that is killed loses nothing that it wrote, and power cuts are replayed from the record. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum operation { OPEN, WRITE, RENAME, EXCHANGE, UNLINK, MKDIR, RMDIR, LINK, SYMLINK, TRUNCATE, SYNC };
enum action { KILL, HALVE, FAIL };
enum fate { PASS, STRUCK, LAST };

static struct {
    char folder[PATH_MAX];
    long strike_at;
    enum action action;
    int error;
    bool is_lasting;
    int log;
} plan;
static bool is_armed, has_struck;
static long count, looks, clock_leap;
static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;

/* Arms the shim in this process. Strikes at an operation from 1 on, or never (0); with `is_lasting`, at all later ones,
 * too. `log` is a descriptor outside of the folder, or -1. */
void shim_arm(const char *folder, long strike_at, int action, int error, int is_lasting, int log) {
    snprintf(plan.folder, sizeof plan.folder, "%s", folder);
    plan.strike_at = strike_at, plan.action = (enum action)action, plan.error = error;
    plan.is_lasting = is_lasting != 0, plan.log = log;
    count = 0, has_struck = false;
    is_armed = true;
}

/* Makes the wall clock leap at every look, by up to so many seconds to either side. */
void shim_leap(long seconds) { clock_leap = seconds; }

long shim_count(void) { return count; }

/* ---- paths ---- */

static void path_of(int descriptor, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = '\0';
}

static void path_at(int folder, const char *name, char *path) {
    if (name[0] == '/') {
        snprintf(path, PATH_MAX, "%s", name);
        return;
    }
    if (folder == AT_FDCWD) {
        ssize_t length = readlink("/proc/self/cwd", path, PATH_MAX - 1);
        path[length < 0 ? 0 : length] = '\0';
    } else {
        path_of(folder, path);
    }
    size_t used = strlen(path);
    snprintf(path + used, PATH_MAX - used, "/%s", name);
}

static bool is_below(const char *path) {
    size_t length = strlen(plan.folder);
    return strncmp(path, plan.folder, length) == 0 && (path[length] == '/' || path[length] == '\0');
}

/* ---- what happens to an operation ---- */

static bool can_fail(enum operation operation) {
    switch (plan.error) {
    case ENOSPC:
        return operation == OPEN || operation == WRITE || operation == MKDIR || operation == SYNC;
    case EACCES:
    case EROFS:
        return operation != WRITE && operation != SYNC;
    default:
        return true;
    }
}

static void die(void) {
    syscall(SYS_kill, (pid_t)syscall(SYS_getpid), SIGKILL);
    for (;;)
        pause();
}

/* PASS; STRUCK: fail with the errno that was set, or write a half and die; LAST: do it, then die. */
static enum fate fate_of(enum operation operation, const char *path) {
    if (!is_armed || !is_below(path))
        return PASS;
    long number = __atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST);
    bool is_due = plan.strike_at > 0 && number >= plan.strike_at && (plan.is_lasting || !has_struck);
    if (!is_due || (plan.action == FAIL && !can_fail(operation)))
        return PASS;
    has_struck = true;
    if (plan.action == KILL)
        die();
    if (plan.action == HALVE)
        return operation == WRITE ? STRUCK : LAST;
    errno = plan.error;
    return STRUCK;
}

struct record { int64_t operation, offset, path_length, other_length, data_length; };

static void put(const void *bytes, size_t length) {
    for (const char *at = bytes; length > 0;) {
        long written = syscall(SYS_write, plan.log, at, length);
        if (written <= 0)
            die();
        at += written;
        length -= (size_t)written;
    }
}

static void note(enum operation operation, const char *path, const char *other, off_t offset, const void *data,
                 size_t length) {
    if (!is_armed || plan.log < 0 || !is_below(path))
        return;
    int before = errno;
    struct record record = {operation, offset, (int64_t)strlen(path), (int64_t)strlen(other), (int64_t)length};
    pthread_mutex_lock(&one_at_a_time);
    put(&record, sizeof record);
    put(path, strlen(path));
    put(other, strlen(other));
    put(data, length);
    pthread_mutex_unlock(&one_at_a_time);
    errno = before;
}

/* The end of an operation that names one or two paths. */
static int done(long result, enum fate fate, enum operation operation, const char *path, const char *other) {
    if (result >= 0)
        note(operation, path, other, 0, "", 0);
    if (fate == LAST)
        die();
    return (int)result;
}

/* ---- files ---- */

static int open_at(int folder, const char *name, int flags, mode_t mode) {
    char path[PATH_MAX];
    if (!is_armed || !(flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)))
        return (int)syscall(SYS_openat, folder, name, flags, mode);
    path_at(folder, name, path);
    enum fate fate = fate_of(OPEN, path);
    if (fate == STRUCK)
        return -1;
    return done(syscall(SYS_openat, folder, name, flags, mode), fate, OPEN, path, flags & O_TRUNC ? "truncated" : "");
}

#define SAME_AS(function) __attribute__((alias(#function)))
#define MODE_OF(flags)                                                                                                 \
    mode_t mode = 0;                                                                                                   \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                                                                             \
        va_list more;                                                                                                  \
        va_start(more, flags);                                                                                         \
        mode = va_arg(more, mode_t);                                                                                   \
        va_end(more);                                                                                                  \
    }

int open(const char *name, int flags, ...) { MODE_OF(flags) return open_at(AT_FDCWD, name, flags, mode); }
int openat(int folder, const char *name, int flags, ...) { MODE_OF(flags) return open_at(folder, name, flags, mode); }SAME_AS(open) int open64(const char *name, int flags, ...);
SAME_AS(openat) int openat64(int folder, const char *name, int flags, ...);int creat(const char *name, mode_t mode) { return open_at(AT_FDCWD, name, O_CREAT | O_WRONLY | O_TRUNC, mode); }

/* Writes at the offset, or at the current position where it is negative. */
static ssize_t write_at(int descriptor, const void *bytes, size_t length, off_t offset) {
    char path[PATH_MAX] = "";
    if (is_armed)
        path_of(descriptor, path);
    enum fate fate = fate_of(WRITE, path);
    if (fate == STRUCK && plan.action == FAIL)
        return -1;
    size_t part = fate == STRUCK ? length / 2 : length;
    ssize_t result = offset < 0 ? syscall(SYS_write, descriptor, bytes, part)
                                : syscall(SYS_pwrite64, descriptor, bytes, part, offset);
    if (fate == STRUCK)
        die();
    if (result > 0 && plan.log >= 0 && is_armed && is_below(path)) {
        off_t begin = offset < 0 ? syscall(SYS_lseek, descriptor, 0, SEEK_CUR) - result : offset;
        note(WRITE, path, "", begin, bytes, (size_t)result);
    }
    return result;
}

ssize_t write(int descriptor, const void *bytes, size_t length) { return write_at(descriptor, bytes, length, -1); }
ssize_t pwrite(int descriptor, const void *bytes, size_t length, off_t offset) {
    return write_at(descriptor, bytes, length, offset);
}
SAME_AS(pwrite) ssize_t pwrite64(int descriptor, const void *bytes, size_t length, off_t offset);
ssize_t writev(int descriptor, const struct iovec *parts, int number) {
    ssize_t total = 0;
    for (int i = 0; i < number; i++) {
        ssize_t written = write_at(descriptor, parts[i].iov_base, parts[i].iov_len, -1);
        if (written < 0)
            return total > 0 ? total : -1;
        total += written;
        if ((size_t)written < parts[i].iov_len)
            break;
    }
    return total;
}

static ssize_t refuse(void) { return errno = EINVAL, -1; }
ssize_t sendfile(int target, int source, off_t *offset, size_t length) {
    return is_armed ? refuse() : syscall(SYS_sendfile, target, source, offset, length);
}
SAME_AS(sendfile) ssize_t sendfile64(int target, int source, off_t *offset, size_t length);
ssize_t copy_file_range(int source, off_t *from, int target, off_t *to, size_t length, unsigned flags) {
    return is_armed ? refuse() : syscall(SYS_copy_file_range, source, from, target, to, length, flags);
}

/* An operation on one open file. */
static int on_open(enum operation operation, int descriptor, long call, off_t length) {
    char path[PATH_MAX] = "";
    if (is_armed)
        path_of(descriptor, path);
    enum fate fate = fate_of(operation, path);
    if (fate == STRUCK)
        return -1;
    bool is_recorded_only = operation == SYNC && is_armed && is_below(path);
    long result = is_recorded_only ? 0 : syscall(call, descriptor, length);
    if (result >= 0)
        note(operation, path, "", length, "", 0);
    if (fate == LAST)
        die();
    return (int)result;
}

int fsync(int descriptor) { return on_open(SYNC, descriptor, SYS_fsync, 0); }
int fdatasync(int descriptor) { return on_open(SYNC, descriptor, SYS_fdatasync, 0); }
int ftruncate(int descriptor, off_t length) { return on_open(TRUNCATE, descriptor, SYS_ftruncate, length); }
SAME_AS(ftruncate) int ftruncate64(int descriptor, off_t length);

/* ---- names ---- */

#define ON_NAME(operation, folder, name, other, call)                                                                  \
    char path[PATH_MAX];                                                                                               \
    path_at(folder, name, path);                                                                                       \
    enum fate fate = fate_of(operation, path);                                                                         \
    return fate == STRUCK ? -1 : done(call, fate, operation, path, other);

int renameat2(int from, const char *old, int to, const char *new, unsigned flags) {
    char target[PATH_MAX];
    path_at(to, new, target);
    ON_NAME(flags & RENAME_EXCHANGE ? EXCHANGE : RENAME, from, old, target,
            syscall(SYS_renameat2, from, old, to, new, flags))
}
int renameat(int from, const char *old, int to, const char *new) { return renameat2(from, old, to, new, 0); }
int rename(const char *old, const char *new) { return renameat2(AT_FDCWD, old, AT_FDCWD, new, 0); }

int unlinkat(int folder, const char *name, int flags) {
    ON_NAME(flags & AT_REMOVEDIR ? RMDIR : UNLINK, folder, name, "", syscall(SYS_unlinkat, folder, name, flags))
}
int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }

int mkdirat(int folder, const char *name, mode_t mode) {
    ON_NAME(MKDIR, folder, name, "", syscall(SYS_mkdirat, folder, name, mode))
}
int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }

int linkat(int from, const char *old, int to, const char *new, int flags) {
    char source[PATH_MAX];
    path_at(from, old, source);
    ON_NAME(LINK, to, new, source, syscall(SYS_linkat, from, old, to, new, flags))
}
int link(const char *old, const char *new) { return linkat(AT_FDCWD, old, AT_FDCWD, new, 0); }

int symlinkat(const char *target, int folder, const char *name) {
    ON_NAME(SYMLINK, folder, name, target, syscall(SYS_symlinkat, target, folder, name))
}
int symlink(const char *target, const char *name) { return symlinkat(target, AT_FDCWD, name); }

/* ---- the wall clock ---- */

int clock_gettime(clockid_t clock, struct timespec *now) {
    long result = syscall(SYS_clock_gettime, clock, now);
    if (clock_leap > 0 && clock == CLOCK_REALTIME) {
        uint64_t mixed = (uint64_t)__atomic_add_fetch(&looks, 1, __ATOMIC_SEQ_CST) * 0x9E3779B97F4A7C15u;
        now->tv_sec += (long)(mixed % (uint64_t)(2 * clock_leap + 1)) - clock_leap;
    }
    return (int)result;
}

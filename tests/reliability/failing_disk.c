/* Failing disk: a library to preload, whose calls for files in one folder fail where a test says so.

   It is below Python, SQLite and Arrow, so that every write of theirs comes by here. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[4096];
static long calls, failing = -1;
static int number, sticky;

/* Fail the call of this index, from 0, with an errno; with `lasting` also all calls after it. */
void failing_disk_arm(const char *path, long at, int error, int lasting) {
    strncpy(folder, path, sizeof folder - 1);
    calls = 0;
    failing = at;
    number = error;
    sticky = lasting;
}

long failing_disk_calls(void) { return calls; }

static int fails(const char *path) {
    size_t length = strlen(folder);
    if (!length || !path || strncmp(path, folder, length)) return 0;
    long call = __sync_fetch_and_add(&calls, 1);
    if (failing < 0 || (sticky ? call < failing : call != failing)) return 0;
    errno = number;
    return 1;
}

static int fd_fails(int fd) {
    char link[64], path[4096];
    if (!folder[0]) return 0;
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = before;
    if (length < 0) return 0;
    path[length] = 0;
    return fails(path);
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define OPEN(name)                                                                       \
    int name(const char *path, int flags, ...) {                                         \
        REAL(name);                                                                      \
        va_list rest;                                                                    \
        va_start(rest, flags);                                                           \
        mode_t mode = va_arg(rest, mode_t);                                              \
        va_end(rest);                                                                    \
        if ((flags & (O_WRONLY | O_RDWR | O_CREAT)) && fails(path)) return -1;           \
        return real(path, flags, mode);                                                  \
    }
OPEN(open)
OPEN(open64)

ssize_t write(int fd, const void *data, size_t size) {
    REAL(write);
    return fd_fails(fd) ? -1 : real(fd, data, size);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    REAL(pwrite);
    return fd_fails(fd) ? -1 : real(fd, data, size, at);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    REAL(pwrite64);
    return fd_fails(fd) ? -1 : real(fd, data, size, at);
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(writev);
    return fd_fails(fd) ? -1 : real(fd, parts, count);
}
int fsync(int fd) {
    REAL(fsync);
    return fd_fails(fd) ? -1 : real(fd);
}
int fdatasync(int fd) {
    REAL(fdatasync);
    return fd_fails(fd) ? -1 : real(fd);
}
int ftruncate(int fd, off_t size) {
    REAL(ftruncate);
    return fd_fails(fd) ? -1 : real(fd, size);
}
int ftruncate64(int fd, off64_t size) {
    REAL(ftruncate64);
    return fd_fails(fd) ? -1 : real(fd, size);
}
int posix_fallocate(int fd, off_t start, off_t size) {
    REAL(posix_fallocate);
    return fd_fails(fd) ? number : real(fd, start, size);
}
int posix_fallocate64(int fd, off64_t start, off64_t size) {
    REAL(posix_fallocate64);
    return fd_fails(fd) ? number : real(fd, start, size);
}
int rename(const char *from, const char *to) {
    REAL(rename);
    return fails(from) ? -1 : real(from, to);
}
int renameat(int from_fd, const char *from, int to_fd, const char *to) {
    REAL(renameat);
    return fails(from) ? -1 : real(from_fd, from, to_fd, to);
}
int link(const char *from, const char *to) {
    REAL(link);
    return fails(from) ? -1 : real(from, to);
}
int unlink(const char *path) {
    REAL(unlink);
    return fails(path) ? -1 : real(path);
}

/* Stands between a process and the C library, and makes its disk fail at one chosen call.

   Preloaded (LD_PRELOAD) and armed through ctypes. It counts the calls that change files below one
   folder, writes each of them with its data into a trace, and makes call number `at` go wrong in
   the way `mode` says. fsync returns at once: a process that dies loses nothing that the system
   has taken, and what a power cut would lose is worked out from the trace. Linux only. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

enum { RECORD, EIO_ONCE, ENOSPC_ONCE, DIE_BEFORE, DIE_AFTER, TORN_DIE, TORN_EIO, EIO_FOR_GOOD };

static char folder[PATH_MAX];
static size_t folder_length;
static long fail_at, calls;
static int mode, trace = -1;

#define REAL(name, type) ((type)dlsym(RTLD_NEXT, name))
typedef ssize_t (*write_t)(int, const void *, size_t);
typedef ssize_t (*pwrite_t)(int, const void *, size_t, off_t);
typedef int (*truncate_t)(int, off_t);
typedef int (*two_t)(const char *, const char *);
typedef int (*one_t)(const char *);
typedef int (*open_t)(const char *, int, ...);

void fault_arm(const char *path, long at, int how, const char *trace_path) {
  trace = *trace_path ? REAL("open64", open_t)(trace_path, O_WRONLY | O_CREAT | O_TRUNC, 0600) : -1;
  folder_length = strlen(path);
  memcpy(folder, path, folder_length + 1);
  fail_at = at;
  mode = how;
  calls = 0;
}

long fault_calls(void) { return calls; }

static void put(const void *data, size_t size) {
  if (trace >= 0 && REAL("write", write_t)(trace, data, size) != (ssize_t)size) abort();
}

/* One line: letter, descriptor or flags, offset, size, two names; then `size` bytes of data. */
static void note(char what, int number, off_t offset, size_t size, const char *one,
                 const char *two, const void *data) {
  if (trace < 0) return;
  int kept = errno;
  char line[3 * PATH_MAX];
  int n = snprintf(line, sizeof line, "%c\t%d\t%lld\t%zu\t%s\t%s\n", what, number,
                   (long long)offset, size, one, two);
  put(line, (size_t)n);
  if (data) put(data, size);
  errno = kept;
}

void fault_note(const char *text) { note('N', 0, 0, 0, text, "", NULL); }

/* The name below the folder, "." for itself, NULL for what is elsewhere. */
static const char *below(const char *path) {
  if (!folder_length || strncmp(path, folder, folder_length)) return NULL;
  if (!path[folder_length]) return ".";
  return path[folder_length] == '/' ? path + folder_length + 1 : NULL;
}

static const char *below_fd(int fd, char *room) {
  if (!folder_length) return NULL;
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, room, PATH_MAX - 1);
  if (n < 0) return NULL;
  room[n] = 0;
  return below(room);
}

/* Counts a call. Returns 0 to let it happen, -1 to refuse it with errno, 1 to tear it. */
static int gate(void) {
  long now = ++calls;
  if (mode == EIO_FOR_GOOD ? now < fail_at : now != fail_at) return 0;
  switch (mode) {
    case EIO_ONCE: case EIO_FOR_GOOD: errno = EIO; return -1;
    case ENOSPC_ONCE: errno = ENOSPC; return -1;
    case DIE_BEFORE: _exit(9);
    case TORN_DIE: case TORN_EIO: return 1;
    default: return 0;
  }
}

static void after(void) {
  if (mode == DIE_AFTER && calls == fail_at) _exit(9);
}

static ssize_t torn(void) {
  if (mode == TORN_DIE) _exit(9);
  errno = EIO;
  return -1;
}

static ssize_t put_at(int fd, const void *data, size_t size, off_t offset, int positioned) {
  char room[PATH_MAX];
  const char *name = fd == trace ? NULL : below_fd(fd, room);
  int verdict = name ? gate() : 0;
  if (verdict < 0) return -1;
  size_t taken = verdict ? size / 2 : size;
  if (name) note('W', fd, positioned ? offset : lseek(fd, 0, SEEK_CUR), taken, name, "", data);
  ssize_t result = positioned ? REAL("pwrite64", pwrite_t)(fd, data, taken, offset)
                              : REAL("write", write_t)(fd, data, taken);
  if (verdict) return torn();
  if (name) after();
  return result;
}

ssize_t write(int fd, const void *data, size_t size) { return put_at(fd, data, size, 0, 0); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
  return put_at(fd, data, size, at, 1);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off_t at) {
  return put_at(fd, data, size, at, 1);
}

static int sync_fd(int fd) {
  char room[PATH_MAX];
  const char *name = below_fd(fd, room);
  if (!name) return 0;
  int verdict = gate();
  if (verdict < 0) return -1;
  if (verdict) return (int)torn(); /* nothing is promised of a sync that did not end */
  note('S', fd, 0, 0, name, "", NULL);
  after();
  return 0;
}

int fsync(int fd) { return sync_fd(fd); }
int fdatasync(int fd) { return sync_fd(fd); }

static int cut(int fd, off_t size) {
  char room[PATH_MAX];
  const char *name = below_fd(fd, room);
  int verdict = name ? gate() : 0;
  if (verdict < 0) return -1;
  if (verdict) return (int)torn();
  if (name) note('T', fd, size, 0, name, "", NULL);
  int result = REAL("ftruncate64", truncate_t)(fd, size);
  if (name) after();
  return result;
}

int ftruncate(int fd, off_t size) { return cut(fd, size); }
int ftruncate64(int fd, off_t size) { return cut(fd, size); }

static int names(char what, const char *real, const char *from, const char *to) {
  const char *one = below(from), *two = to ? below(to) : "";
  int inside = one && two, verdict = inside ? gate() : 0;
  if (verdict < 0) return -1;
  if (verdict) return (int)torn();
  int result = to ? REAL(real, two_t)(from, to) : REAL(real, one_t)(from);
  if (inside && !result) note(what, 0, 0, 0, one, two, NULL);
  if (inside) after();
  return result;
}

int rename(const char *from, const char *to) { return names('R', "rename", from, to); }
int link(const char *from, const char *to) { return names('L', "link", from, to); }
int unlink(const char *path) { return names('U', "unlink", path, NULL); }
int remove(const char *path) { return names('U', "remove", path, NULL); }
int linkat(int a, const char *from, int b, const char *to, int flags) {
  if (a == AT_FDCWD && b == AT_FDCWD) return names('L', "link", from, to);
  return ((int (*)(int, const char *, int, const char *, int))dlsym(RTLD_NEXT, "linkat"))(
      a, from, b, to, flags);
}

static int open_any(const char *path, int flags, mode_t rights) {
  const char *name = below(path);
  int verdict = name && (flags & O_CREAT) ? gate() : 0;
  if (verdict < 0) return -1;
  if (verdict) return (int)torn();
  int fd = REAL("open64", open_t)(path, flags, rights);
  if (name && fd >= 0) note('O', fd, flags & O_TRUNC ? 1 : 0, 0, name, "", NULL);
  if (name && (flags & O_CREAT)) after();
  return fd;
}

int open(const char *path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  mode_t rights = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
  va_end(rest);
  return open_any(path, flags, rights);
}

int open64(const char *path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  mode_t rights = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
  va_end(rest);
  return open_any(path, flags, rights);
}

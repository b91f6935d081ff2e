/* Fails, kills or cuts the power at one chosen operation on a folder's files.

   Built as a shared object, loaded with LD_PRELOAD and armed through faults_arm() by faults.py. It
   counts what a process does below one folder: writes, syncs, names made, changed and removed.

   A power cut keeps what was synced alone: files shrink to the length of their last fsync, names
   come back, or go, to what their folder had at its last fsync. That is the worst that POSIX allows
   and worse than most file systems do. Bytes written over synced ones are not undone; nothing here
   writes in place but a file under a name of its own, which the loss of that name undoes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { COUNT, KILL, POWER, ENOSPC_ON, EIO_ONCE };
enum change { MADE, MADE_FOLDER, RENAMED, REMOVED, REMOVED_FOLDER, SETTLED };

struct pending { enum change change; char path[PATH_MAX], from[PATH_MAX]; int backup; };
struct length { ino_t inode; off_t synced; };

static char below[PATH_MAX], attic[PATH_MAX];
static enum kind kind;
static long target, count;
static int armed, busy, backups, journal = -1;
static struct pending *changes;
static size_t n_changes, n_lengths;
static struct length *lengths;

#define REAL(name) ((typeof(&name))dlsym(RTLD_NEXT, #name))

void faults_arm(const char *folder, const char *spare, int what, long at, int log_fd)
{
    snprintf(below, sizeof below, "%s/", folder);
    snprintf(attic, sizeof attic, "%s", spare);
    kind = what, target = at, journal = log_fd, armed = 1;
}

static int ours(const char *path) { return armed && !busy && !strncmp(path, below, strlen(below)); }

static void absolute(int folder, const char *path, char *out)
{
    char base[PATH_MAX] = "";
    if (*path != '/') {
        char link[64];
        if (folder == AT_FDCWD) {
            if (!getcwd(base, sizeof base)) base[0] = 0;
        } else {
            snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
            ssize_t got = readlink(link, base, sizeof base - 1);
            base[got > 0 ? got : 0] = 0;
        }
        strncat(base, "/", sizeof base - strlen(base) - 1);
    }
    snprintf(out, PATH_MAX, "%s%s", base, path);
}

static void of_descriptor(int fd, char *out)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t got = readlink(link, out, PATH_MAX - 1);
    out[got > 0 ? got : 0] = 0;
}

static void backup_path(int number, char *out) { snprintf(out, PATH_MAX, "%s/%d", attic, number); }

/* A folder that was renamed takes the names below it along. */
static void moved(const char *from, const char *to, size_t end)
{
    size_t length = strlen(from);
    char changed[2 * PATH_MAX];
    for (size_t i = 0; i < end; i++)
        for (int which = 0; which < 2; which++) {
            char *path = which ? changes[i].from : changes[i].path;
            if (!strncmp(path, from, length) && path[length] == '/') {
                snprintf(changed, sizeof changed, "%s%s", to, path + length);
                snprintf(path, PATH_MAX, "%s", changed);
            }
        }
}

static void note(enum change change, const char *path, const char *from, int backup)
{
    changes = realloc(changes, (n_changes + 1) * sizeof *changes);
    struct pending *new = &changes[n_changes++];
    new->change = change, new->backup = backup;
    snprintf(new->path, PATH_MAX, "%s", path);
    snprintf(new->from, PATH_MAX, "%s", from ? from : "");
    if (change == RENAMED) moved(from, path, n_changes - 1);
}

/* Keeps what stands under a name that is about to go; 0 where nothing does. */
static int kept(const char *path)
{
    char spare[PATH_MAX];
    struct stat found;
    if (lstat(path, &found) || S_ISDIR(found.st_mode)) return 0;
    backup_path(++backups, spare);
    return link(path, spare) ? 0 : backups;
}

static void settle_folder(const char *folder)
{
    size_t length = strlen(folder);
    for (size_t i = 0; i < n_changes; i++) {
        const char *path = changes[i].path;
        if (!strncmp(path, folder, length) && path[length] == '/' && !strchr(path + length + 1, '/'))
            changes[i].change = SETTLED;
    }
}

static struct length *length_of(ino_t inode)
{
    for (size_t i = 0; i < n_lengths; i++)
        if (lengths[i].inode == inode) return &lengths[i];
    return NULL;
}

static void opened(int fd, int is_new)
{
    struct stat found;
    if (fstat(fd, &found) || !S_ISREG(found.st_mode)) return;
    struct length *known = length_of(found.st_ino);
    if (!known) {
        lengths = realloc(lengths, (n_lengths + 1) * sizeof *lengths);
        known = &lengths[n_lengths++];
    } else if (!is_new) {
        return;
    }
    known->inode = found.st_ino, known->synced = found.st_size;
}

static int shrink(const char *path, const struct stat *found, int type, struct FTW *unused)
{
    (void)unused;
    struct length *known = type == FTW_F ? length_of(found->st_ino) : NULL;
    if (known && found->st_size > known->synced && truncate(path, known->synced)) return 1;
    return 0;
}

static void cut_power(void)
{
    char spare[PATH_MAX];
    for (size_t i = n_changes; i-- > 0;) {
        struct pending *one = &changes[i];
        backup_path(one->backup, spare);
        switch (one->change) {
        case MADE: REAL(unlink)(one->path); break;
        case MADE_FOLDER: REAL(rmdir)(one->path); break;
        case REMOVED_FOLDER: REAL(mkdir)(one->path, 0777); break;
        case REMOVED: if (one->backup) REAL(rename)(spare, one->path); break;
        case RENAMED:
            REAL(rename)(one->path, one->from);
            moved(one->path, one->from, i);
            if (one->backup) REAL(rename)(spare, one->path);
            break;
        case SETTLED: break;
        }
    }
    below[strlen(below) - 1] = 0;
    nftw(below, shrink, 16, FTW_PHYS);
}

static void die(void)
{
    if (kind == POWER) cut_power();
    raise(SIGKILL);
    for (;;) pause();
}

/* Counts an operation; returns whether it has to fail, with errno set. It may not return. */
static int strikes(const char *what, const char *path, int takes_room)
{
    count++;
    if (journal >= 0) dprintf(journal, "%ld %s %s\n", count, what, path + strlen(below));
    if (kind == ENOSPC_ON && count >= target && takes_room) return errno = ENOSPC, 1;
    if (count != target) return 0;
    if (kind == EIO_ONCE) return errno = EIO, 1;
    if (kind == KILL || kind == POWER) {
        busy = 1;
        if (!takes_room || strcmp(what, "write")) die();
    }
    return 0;
}

static ssize_t write_at(int fd, const void *data, size_t length, off_t at)
{
    char path[PATH_MAX];
    of_descriptor(fd, path);
    if (!armed || busy || !ours(path))
        return at < 0 ? REAL(write)(fd, data, length) : REAL(pwrite64)(fd, data, length, at);
    if (strikes("write", path, 1)) {
        /* a disk that fills up takes a part first */
        if (kind != ENOSPC_ON || count != target || length < 2 || at >= 0) return -1;
        return REAL(write)(fd, data, length / 2);
    }
    if (busy) { /* torn: half of it is there */
        if (at < 0 && REAL(write)(fd, data, length / 2) < 0) errno = 0;
        die();
    }
    return at < 0 ? REAL(write)(fd, data, length) : REAL(pwrite64)(fd, data, length, at);
}

ssize_t write(int fd, const void *data, size_t length) { return write_at(fd, data, length, -1); }
ssize_t pwrite(int fd, const void *data, size_t n, off_t at) { return write_at(fd, data, n, at); }
ssize_t pwrite64(int fd, const void *data, size_t n, off_t at) { return write_at(fd, data, n, at); }

ssize_t writev(int fd, const struct iovec *parts, int n)
{
    ssize_t done = 0;
    char path[PATH_MAX];
    of_descriptor(fd, path);
    if (!ours(path)) return REAL(writev)(fd, parts, n);
    for (int i = 0; i < n; i++) {
        if (!parts[i].iov_len) continue;
        ssize_t got = write_at(fd, parts[i].iov_base, parts[i].iov_len, -1);
        if (got < 0) return done ? done : -1;
        done += got;
        if ((size_t)got < parts[i].iov_len) break;
    }
    return done;
}

ssize_t sendfile64(int to, int from, off_t *at, size_t length)
{
    char path[PATH_MAX];
    of_descriptor(to, path);
    if (ours(path) && strikes("sendfile", path, 1)) return -1;
    return REAL(sendfile64)(to, from, at, length);
}
ssize_t sendfile(int to, int from, off_t *at, size_t n) { return sendfile64(to, from, at, n); }

static int synced(int fd, const char *what)
{
    char path[PATH_MAX];
    struct stat found;
    of_descriptor(fd, path);
    char *under = path;
    strncat(path, "/", sizeof path - strlen(path) - 1); /* the folder itself counts too */
    int is_ours = ours(under);
    path[strlen(path) - 1] = 0;
    if (!is_ours) return 0;
    if (strikes(what, strlen(path) < strlen(below) ? below : path, 0)) return -1;
    if (fstat(fd, &found)) return 0;
    if (S_ISDIR(found.st_mode)) settle_folder(path);
    struct length *known = length_of(found.st_ino);
    if (known) known->synced = found.st_size;
    return 0;
}
int fsync(int fd) { return synced(fd, "fsync"); } /* the machine does not go down for real */
int fdatasync(int fd) { return synced(fd, "fdatasync"); }

static int open_at(int folder, const char *given, int flags, mode_t mode)
{
    char path[PATH_MAX];
    struct stat found;
    absolute(folder, given, path);
    if (!ours(path) || !(flags & (O_WRONLY | O_RDWR)))
        return REAL(openat64)(folder, given, flags, mode);
    int is_new = lstat(path, &found) != 0;
    if (is_new && (flags & O_CREAT) && strikes("create", path, 1)) return -1;
    if (!is_new && (flags & O_TRUNC) && strikes("truncate", path, 0)) return -1;
    int fd = REAL(openat64)(folder, given, flags, mode);
    if (fd < 0) return fd;
    if (is_new) note(MADE, path, NULL, 0);
    opened(fd, is_new);
    return fd;
}

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list list; \
        va_start(list, flags); \
        mode = va_arg(list, mode_t); \
        va_end(list); \
    }
int open(const char *path, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { MODE(flags) return open_at(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE(flags) return open_at(at, path, flags, mode); }

static int rename_at(int old, const char *from, int new, const char *to, unsigned flags)
{
    char source[PATH_MAX], path[PATH_MAX];
    absolute(old, from, source), absolute(new, to, path);
    if (!ours(path)) return REAL(renameat2)(old, from, new, to, flags);
    if (strikes("rename", path, 0)) return -1;
    int backup = kept(path), failed = REAL(renameat2)(old, from, new, to, flags);
    if (!failed) note(RENAMED, path, source, backup);
    return failed;
}
int rename(const char *a, const char *b) { return rename_at(AT_FDCWD, a, AT_FDCWD, b, 0); }
int renameat(int x, const char *a, int y, const char *b) { return rename_at(x, a, y, b, 0); }
int renameat2(int x, const char *a, int y, const char *b, unsigned f) { return rename_at(x, a, y, b, f); }

static int remove_at(int folder, const char *given, int flags)
{
    char path[PATH_MAX];
    int is_folder = flags & AT_REMOVEDIR;
    absolute(folder, given, path);
    struct stat found;
    if (!ours(path) || lstat(path, &found)) return REAL(unlinkat)(folder, given, flags);
    if (strikes(is_folder ? "rmdir" : "unlink", path, 0)) return -1;
    int backup = is_folder ? 0 : kept(path), failed = REAL(unlinkat)(folder, given, flags);
    if (!failed) note(is_folder ? REMOVED_FOLDER : REMOVED, path, NULL, backup);
    return failed;
}
int unlink(const char *path) { return remove_at(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return remove_at(AT_FDCWD, path, AT_REMOVEDIR); }
int unlinkat(int folder, const char *path, int flags) { return remove_at(folder, path, flags); }

int mkdir(const char *given, mode_t mode)
{
    char path[PATH_MAX];
    absolute(AT_FDCWD, given, path);
    if (!ours(path)) return REAL(mkdir)(given, mode);
    if (strikes("mkdir", path, 1)) return -1;
    int failed = REAL(mkdir)(given, mode);
    if (!failed) note(MADE_FOLDER, path, NULL, 0);
    return failed;
}

static int shorten(int fd, off_t length)
{
    char path[PATH_MAX];
    of_descriptor(fd, path);
    if (ours(path) && strikes("ftruncate", path, 0)) return -1;
    return REAL(ftruncate64)(fd, length);
}
int ftruncate(int fd, off_t length) { return shorten(fd, length); }
int ftruncate64(int fd, off_t length) { return shorten(fd, length); }

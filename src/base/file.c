/*
 * Files. The SIGBUS handler is why this is more than open+mmap: it must find the mapping of an
 * address without locks, so mappings live in a fixed table of atomically published slots.
 */
#define _GNU_SOURCE
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAPPED_FILES_MAX 1024
#define LARGE_PAGE       ((size_t)2 << 20)
/* Steps of the clocks that files are stamped by: timer ticks, or whole seconds (at times two). */
#define TICK_NS        ((int64_t)50 * 1000 * 1000)
#define COARSE_TICK_NS ((int64_t)2000 * 1000 * 1000)

struct mapped_file {
    _Atomic(uintptr_t) start; /* 0: slot free */
    _Atomic(uintptr_t) end;
    atomic_bool damaged;
    uint64_t size;
    struct file_identity identity;
    bool settled;
};

static struct mapped_file mapped_files[MAPPED_FILES_MAX];
static pthread_mutex_t mapped_files_lock = PTHREAD_MUTEX_INITIALIZER;
static struct sigaction previous_sigbus;
static _Thread_local volatile sig_atomic_t passing_on;
static uintptr_t page_size;

static void pass_on(int signal_number, siginfo_t *info, void *context)
{
    bool with_info = previous_sigbus.sa_flags & SA_SIGINFO;
    bool is_default = !with_info && (previous_sigbus.sa_handler == SIG_IGN ||
                                     previous_sigbus.sa_handler == SIG_DFL);
    if (is_default || passing_on) {
        /* Default action on return: the faulting instruction runs again and ends the process. So it
         * does where the other handler was put in front of ours and passes back to us. */
        signal(SIGBUS, SIG_DFL);
        return;
    }
    passing_on = 1;
    if (with_info)
        previous_sigbus.sa_sigaction(signal_number, info, context);
    else
        previous_sigbus.sa_handler(signal_number);
    passing_on = 0;
}

static void on_sigbus(int signal_number, siginfo_t *info, void *context)
{
    int saved_errno = errno;
    uintptr_t address = (uintptr_t)info->si_addr;
    for (size_t i = 0; i < MAPPED_FILES_MAX; i++) {
        struct mapped_file *file = &mapped_files[i];
        uintptr_t start = atomic_load(&file->start);
        if (!start || address < start || address >= atomic_load(&file->end))
            continue;
        void *page = (void *)(address & ~(page_size - 1));
        if (mmap(page, page_size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
            MAP_FAILED)
            break;
        atomic_store(&file->damaged, true);
        errno = saved_errno;
        return;
    }
    pass_on(signal_number, info, context);
}

/* On every open, because a library or a host program may have put its own handler in our place. */
static void install_handler(void)
{
    struct sigaction current;
    if (sigaction(SIGBUS, NULL, &current) == 0 && current.sa_flags & SA_SIGINFO &&
        current.sa_sigaction == on_sigbus)
        return;
    page_size = (uintptr_t)sysconf(_SC_PAGESIZE);
    struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO};
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, &previous_sigbus);
}

static struct mapped_file *publish(uintptr_t start, uintptr_t end,
                                   const struct file_identity *identity, bool settled)
{
    struct mapped_file *file = NULL;
    pthread_mutex_lock(&mapped_files_lock);
    install_handler();
    for (size_t i = 0; i < MAPPED_FILES_MAX && !file; i++)
        if (!atomic_load(&mapped_files[i].start))
            file = &mapped_files[i];
    if (file) {
        file->size = identity->size;
        file->identity = *identity;
        file->settled = settled;
        atomic_store(&file->damaged, false);
        atomic_store(&file->end, end);
        atomic_store(&file->start, start);
    }
    pthread_mutex_unlock(&mapped_files_lock);
    return file;
}

static int64_t nanoseconds(const struct timespec *t)
{
    return (int64_t)t->tv_sec * 1000000000 + t->tv_nsec;
}

static struct file_identity identity_of(const struct stat *info, bool *settled)
{
#ifdef __APPLE__
    const struct timespec *modified = &info->st_mtimespec, *changed = &info->st_ctimespec;
#else
    const struct timespec *modified = &info->st_mtim, *changed = &info->st_ctim;
#endif
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    int64_t tick = changed->tv_nsec == 0 ? COARSE_TICK_NS : TICK_NS;
    *settled = nanoseconds(&now) - nanoseconds(changed) >= tick;
    return (struct file_identity){.inode = (uint64_t)info->st_ino,
                                  .size = (uint64_t)info->st_size,
                                  .modified_ns = nanoseconds(modified),
                                  .changed_ns = nanoseconds(changed)};
}

static enum status stat_regular(int fd, const char *path, struct stat *info, struct error *err)
{
    if (fstat(fd, info) != 0 || !S_ISREG(info->st_mode))
        return error_set(err, STATUS_DISK, "%s: not a regular file", path);
    return STATUS_OK;
}

static int open_regular(const char *path, struct stat *info, struct error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        error_set(err, STATUS_DISK, "%s: %s", path, strerror(errno));
        return -1;
    }
    if (stat_regular(fd, path, info, err) != STATUS_OK) {
        close(fd);
        return -1;
    }
    return fd;
}

/* Where large pages could be mapped: in the middle of more address space, the rest of which goes
 * back. Files smaller than that lie anywhere. */
static void *map_aligned(int fd, size_t length)
{
    if (length < LARGE_PAGE || length > SIZE_MAX - LARGE_PAGE)
        return mmap(NULL, length, PROT_READ, MAP_PRIVATE, fd, 0);
    uint8_t *room = mmap(NULL, length + LARGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (room == MAP_FAILED)
        return MAP_FAILED;
    size_t page = (size_t)sysconf(_SC_PAGESIZE), whole = (length + page - 1) / page * page;
    size_t before = (LARGE_PAGE - (uintptr_t)room % LARGE_PAGE) % LARGE_PAGE;
    void *data = mmap(room + before, length, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0);
    if (data == MAP_FAILED) {
        int reason = errno;
        munmap(room, length + LARGE_PAGE);
        errno = reason;
        return MAP_FAILED;
    }
    if (before)
        munmap(room, before);
    if (before + whole < length + LARGE_PAGE)
        munmap(room + before + whole, length + LARGE_PAGE - before - whole);
    return data;
}

enum status mapped_file_of(int fd, const char *path, struct mapped_file **out, struct error *err)
{
    *out = NULL;
    struct stat info;
    enum status status = stat_regular(fd, path, &info, err);
    if (status != STATUS_OK)
        return status;
    bool settled;
    struct file_identity identity = identity_of(&info, &settled);
    size_t length = identity.size ? (size_t)identity.size : 1;
    /* An empty file cannot be mapped; one anonymous page stands in for it. */
    void *data = identity.size ? map_aligned(fd, length)
                               : mmap(NULL, length, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED)
        return error_set(err, STATUS_MEMORY, "%s: cannot map %llu bytes: %s", path,
                         (unsigned long long)identity.size, strerror(errno));
    struct mapped_file *file =
        publish((uintptr_t)data, (uintptr_t)data + length, &identity, settled);
    if (!file) {
        munmap(data, length);
        return error_set(err, STATUS_LIMIT, "%s: more than %d files mapped at once", path,
                         MAPPED_FILES_MAX);
    }
    *out = file;
    return STATUS_OK;
}

enum status mapped_file_open(const char *path, struct mapped_file **out, struct error *err)
{
    *out = NULL;
    struct stat info;
    int fd = open_regular(path, &info, err);
    if (fd < 0)
        return STATUS_DISK;
    enum status status = mapped_file_of(fd, path, out, err);
    close(fd);
    return status;
}

void mapped_file_close(struct mapped_file *file)
{
    if (!file)
        return;
    pthread_mutex_lock(&mapped_files_lock);
    uintptr_t start = atomic_load(&file->start), end = atomic_load(&file->end);
    munmap((void *)start, end - start);
    atomic_store(&file->end, 0);
    atomic_store(&file->start, 0);
    pthread_mutex_unlock(&mapped_files_lock);
}

const uint8_t *mapped_file_data(const struct mapped_file *file)
{
    return (const uint8_t *)atomic_load(&((struct mapped_file *)(uintptr_t)file)->start);
}

uint64_t mapped_file_size(const struct mapped_file *file)
{
    return file->size;
}

bool mapped_file_damaged(const struct mapped_file *file)
{
    return atomic_load(&((struct mapped_file *)(uintptr_t)file)->damaged);
}

struct file_identity mapped_file_identity(const struct mapped_file *file, bool *settled)
{
    *settled = file->settled;
    return file->identity;
}

const struct mapped_file *mapped_file_find(const void *data, uint64_t bytes, uint64_t *offset)
{
    uintptr_t from = (uintptr_t)data, to;
    if (__builtin_add_overflow(from, bytes, &to))
        return NULL;
    for (size_t i = 0; i < MAPPED_FILES_MAX; i++) {
        uintptr_t start = atomic_load(&mapped_files[i].start);
        if (!start || from < start || to > atomic_load(&mapped_files[i].end))
            continue;
        *offset = from - start;
        return &mapped_files[i];
    }
    return NULL;
}

void mapped_file_expect_reading(const struct mapped_file *file)
{
    /* "Will need" would start reading of one stretch only; a touched page reads ahead by itself. */
#ifdef MADV_HUGEPAGE
    (void)madvise((void *)(uintptr_t)mapped_file_data(file), (size_t)file->size, MADV_HUGEPAGE);
#else
    (void)file;
#endif
}

void mapped_file_forget(const void *data, uint64_t bytes)
{
    uint64_t offset;
    const struct mapped_file *file = bytes ? mapped_file_find(data, bytes, &offset) : NULL;
    uintptr_t from = (uintptr_t)data, to = from + (uintptr_t)bytes;
    uintptr_t first = (from + page_size - 1) & ~(page_size - 1), last = to & ~(page_size - 1);
    /* Not of a damaged file: its zero pages stand for what is no longer there. */
    if (file && first < last && !mapped_file_damaged(file))
        (void)madvise((void *)first, last - first, MADV_DONTNEED);
}

enum status file_read_fd(int fd, const char *name, size_t max_bytes, struct buf *out,
                         struct error *err)
{
    size_t total = 0;
    for (;;) {
        if (!buf_reserve(out, 65536))
            return error_set(err, STATUS_MEMORY, "%s: out of memory after %zu bytes", name, total);
        ssize_t n = read(fd, out->data + out->len, 65536);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return error_set(err, STATUS_DISK, "%s: %s", name, strerror(errno));
        if (n == 0)
            return STATUS_OK;
        out->len += (size_t)n;
        out->data[out->len] = 0;
        total += (size_t)n;
        if (total > max_bytes)
            return error_set(err, STATUS_LIMIT, "%s: larger than the limit of %zu bytes", name,
                             max_bytes);
    }
}

enum status file_read_all(const char *path, size_t max_bytes, struct buf *out, struct error *err)
{
    struct stat info;
    int fd = open_regular(path, &info, err);
    if (fd < 0)
        return STATUS_DISK;
    enum status status = file_read_fd(fd, path, max_bytes, out, err);
    close(fd);
    return status;
}

bool file_exists(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0;
}

bool file_is_directory(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

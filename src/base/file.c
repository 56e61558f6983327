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
#include <unistd.h>

#define MAPPED_FILES_MAX 1024

struct mapped_file {
    _Atomic(uintptr_t) start; /* 0: slot free */
    _Atomic(uintptr_t) end;
    atomic_bool damaged;
    uint64_t size;
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

static struct mapped_file *publish(uintptr_t start, uintptr_t end, uint64_t size)
{
    struct mapped_file *file = NULL;
    pthread_mutex_lock(&mapped_files_lock);
    install_handler();
    for (size_t i = 0; i < MAPPED_FILES_MAX && !file; i++)
        if (!atomic_load(&mapped_files[i].start))
            file = &mapped_files[i];
    if (file) {
        file->size = size;
        atomic_store(&file->damaged, false);
        atomic_store(&file->end, end);
        atomic_store(&file->start, start);
    }
    pthread_mutex_unlock(&mapped_files_lock);
    return file;
}

static int open_regular(const char *path, struct stat *info, struct error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        error_set(err, STATUS_DISK, "%s: %s", path, strerror(errno));
        return -1;
    }
    if (fstat(fd, info) != 0 || !S_ISREG(info->st_mode)) {
        error_set(err, STATUS_DISK, "%s: not a regular file", path);
        close(fd);
        return -1;
    }
    return fd;
}

enum status mapped_file_open(const char *path, struct mapped_file **out, struct error *err)
{
    *out = NULL;
    struct stat info;
    int fd = open_regular(path, &info, err);
    if (fd < 0)
        return STATUS_DISK;
    uint64_t size = (uint64_t)info.st_size;
    size_t length = size ? (size_t)size : 1;
    /* An empty file cannot be mapped; one anonymous page stands in for it. */
    void *data = size ? mmap(NULL, length, PROT_READ, MAP_PRIVATE, fd, 0)
                      : mmap(NULL, length, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int reason = errno;
    close(fd);
    if (data == MAP_FAILED)
        return error_set(err, STATUS_MEMORY, "%s: cannot map %llu bytes: %s", path,
                         (unsigned long long)size, strerror(reason));
    struct mapped_file *file = publish((uintptr_t)data, (uintptr_t)data + length, size);
    if (!file) {
        munmap(data, length);
        return error_set(err, STATUS_LIMIT, "%s: more than %d files mapped at once", path,
                         MAPPED_FILES_MAX);
    }
    *out = file;
    return STATUS_OK;
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

void mapped_file_forget(const void *data, uint64_t bytes)
{
    if (!bytes)
        return;
    uintptr_t from = (uintptr_t)data, to = from + (uintptr_t)bytes;
    for (size_t i = 0; i < MAPPED_FILES_MAX; i++) {
        uintptr_t start = atomic_load(&mapped_files[i].start);
        if (!start || from < start || to > atomic_load(&mapped_files[i].end))
            continue;
        uintptr_t first = (from + page_size - 1) & ~(page_size - 1), last = to & ~(page_size - 1);
        /* Not of a damaged file: its zero pages stand for what is no longer there. */
        if (first < last && !atomic_load(&mapped_files[i].damaged))
            (void)madvise((void *)first, last - first, MADV_DONTNEED);
        return;
    }
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

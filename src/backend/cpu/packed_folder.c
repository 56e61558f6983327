/* Room, and whole files, in a folder of packed weights. */
#define _GNU_SOURCE
#include "backend/cpu/packed_folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/log.h"

#define DIGEST_DIGITS 32
#define FILES_MAX     4096                /* of others in the folder */
#define LEFT_FREE     ((uint64_t)1 << 30) /* on the disk */
#define PIECE_BYTES   (4 * SIDECAR_CHUNK) /* of one write: two large pages */

void packed_name(const struct sidecar_digest *digest, const char *ending,
                 char out[PACKED_NAME_BYTES])
{
    snprintf(out, PACKED_NAME_BYTES, "packed-%016llx%016llx%s", (unsigned long long)digest->high,
             (unsigned long long)digest->low, ending);
}

/* ---- room -------------------------------------------------------------------------------------- */

struct kept_file {
    char name[PACKED_NAME_BYTES];
    uint64_t bytes;
    struct timespec used;
};

/* A name that packed_name() makes with this ending. */
static bool is_ours(const char *name, const char *ending)
{
    const char *digits = name + 7;
    return strncmp(name, "packed-", 7) == 0 &&
           strspn(digits, "0123456789abcdef") == DIGEST_DIGITS &&
           strcmp(digits + DIGEST_DIGITS, ending) == 0;
}

static int by_use(const void *a, const void *b)
{
    const struct kept_file *x = a, *y = b;
    if (x->used.tv_sec != y->used.tv_sec)
        return x->used.tv_sec < y->used.tv_sec ? -1 : 1;
    return (x->used.tv_nsec > y->used.tv_nsec) - (x->used.tv_nsec < y->used.tv_nsec);
}

static struct timespec modified(const struct stat *info)
{
#ifdef __APPLE__
    return info->st_mtimespec;
#else
    return info->st_mtim;
#endif
}

/* The complete files, least recently used first; removes unfinished ones. files: [FILES_MAX]. */
static enum status list_files(int folder, struct kept_file *files, size_t *count, struct error *err)
{
    struct stat info;
    int copy = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = copy >= 0 ? fdopendir(copy) : NULL;
    *count = 0;
    if (!dir) {
        error_set(err, STATUS_DISK, "the folder cannot be read: %s", strerror(errno));
        if (copy >= 0)
            close(copy);
        return STATUS_DISK;
    }
    for (struct dirent *entry; *count < FILES_MAX && (entry = readdir(dir)) != NULL;) {
        if (is_ours(entry->d_name, ".tmp"))
            (void)unlinkat(folder, entry->d_name, 0);
        if (!is_ours(entry->d_name, ".sluice") ||
            fstatat(folder, entry->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0 ||
            !S_ISREG(info.st_mode))
            continue;
        struct kept_file *file = &files[(*count)++];
        snprintf(file->name, sizeof file->name, "%.*s", (int)sizeof file->name - 1, entry->d_name);
        file->bytes = (uint64_t)info.st_size;
        file->used = modified(&info);
    }
    closedir(dir);
    if (*count == FILES_MAX)
        return error_set(err, STATUS_LIMIT, "the folder has %d files already", FILES_MAX);
    qsort(files, *count, sizeof *files, by_use);
    return STATUS_OK;
}

/* Unless somebody has it mapped. Who opens it just now gets a file without a name, which serves as
 * well. */
static bool remove_unused(int folder, const char *name)
{
    int fd = openat(folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool removed = flock(fd, LOCK_EX | LOCK_NB) == 0 && unlinkat(folder, name, 0) == 0;
    close(fd);
    return removed;
}

static enum status make_room(int folder, uint64_t most_bytes, uint64_t needed, struct error *err)
{
    if (needed > most_bytes)
        return error_set(err, STATUS_LIMIT,
                         "they take %.1f MiB, and %.1f MiB is the most for all models: raise it",
                         (double)needed / 0x1p20, (double)most_bytes / 0x1p20);
    struct kept_file *files = calloc(FILES_MAX, sizeof *files);
    if (!files)
        return error_set(err, STATUS_MEMORY, "out of memory for a list of files");
    size_t count;
    enum status status = list_files(folder, files, &count, err);
    uint64_t used = 0;
    for (size_t i = 0; i < count; i++)
        used += files[i].bytes < UINT64_MAX - used ? files[i].bytes : UINT64_MAX - used;
    for (size_t i = 0; status == STATUS_OK && i < count && used > most_bytes - needed; i++)
        if (remove_unused(folder, files[i].name)) {
            log_info("%s: removed to make room", files[i].name);
            used -= files[i].bytes;
        }
    free(files);
    if (status == STATUS_OK && used > most_bytes - needed)
        status =
            error_set(err, STATUS_LIMIT,
                      "they take %.1f MiB, others in use %.1f, and %.1f MiB is the most for "
                      "all: raise it",
                      (double)needed / 0x1p20, (double)used / 0x1p20, (double)most_bytes / 0x1p20);
    struct statvfs disk;
    if (status == STATUS_OK && fstatvfs(folder, &disk) == 0 &&
        (uint64_t)disk.f_bavail * disk.f_frsize < needed + LEFT_FREE)
        status = error_set(err, STATUS_LIMIT, "they take %.1f MiB, and the disk has %.1f MiB free",
                           (double)needed / 0x1p20,
                           (double)disk.f_bavail * (double)disk.f_frsize / 0x1p20);
    return status;
}

/* ---- writing ----------------------------------------------------------------------------------- */

static enum status write_all(int fd, const uint8_t *bytes, uint64_t n, uint64_t offset,
                             struct error *err)
{
    while (n) {
        ssize_t done = pwrite(fd, bytes, (size_t)n, (off_t)offset);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return error_set(err, STATUS_DISK, "writing: %s",
                             done < 0 ? strerror(errno) : "the disk takes no more");
        bytes += done;
        n -= (uint64_t)done;
        offset += (uint64_t)done;
    }
    return STATUS_OK;
}

/* Data bytes [begin, begin + n) into out; *first: the first matrix that may reach there. */
static void gather(const struct packed_contents *contents, const uint8_t *const *panels,
                   uint64_t begin, uint64_t n, uint32_t *first, uint8_t *out)
{
    memset(out, 0, (size_t)n);
    for (uint32_t i = *first; i < contents->layout.n_matrices; i++) {
        const struct sidecar_matrix *m = &contents->matrices[i];
        if (m->offset >= begin + n)
            break;
        uint64_t from = m->offset > begin ? m->offset : begin;
        uint64_t end = m->offset + m->bytes, to = end < begin + n ? end : begin + n;
        if (from < to)
            memcpy(out + (from - begin), panels[i] + (from - m->offset), (size_t)(to - from));
        if (end <= begin + n)
            *first = i + 1;
    }
}

static enum status write_data(int fd, const struct packed_contents *contents,
                              const uint8_t *const *panels, uint8_t *piece, uint64_t *sums,
                              struct error *err)
{
    const struct sidecar_layout *layout = &contents->layout;
    enum status status = STATUS_OK;
    uint32_t first = 0;
    for (uint64_t at = 0; at < layout->data_bytes && status == STATUS_OK; at += PIECE_BYTES) {
        uint64_t left = layout->data_bytes - at, n = left < PIECE_BYTES ? left : PIECE_BYTES;
        gather(contents, panels, at, n, &first, piece);
        for (uint64_t c = 0; c < n; c += SIDECAR_CHUNK)
            sums[(at + c) / SIDECAR_CHUNK] =
                sidecar_sum(piece + c, n - c < SIDECAR_CHUNK ? n - c : SIDECAR_CHUNK);
        status = write_all(fd, piece, n, layout->data_offset + at, err);
    }
    return status;
}

/* Data, then the head: what a crash leaves has none, should its name survive. */
static enum status write_file(int fd, const struct packed_contents *contents,
                              const uint8_t *const *panels, struct error *err)
{
    const struct sidecar_layout *layout = &contents->layout;
    uint8_t *piece = aligned_alloc(SIDECAR_DATA_ALIGN, PIECE_BYTES);
    uint64_t *sums = calloc((size_t)layout->n_chunks + 1, sizeof *sums);
    uint8_t *head = calloc(1, (size_t)layout->data_offset);
    enum status status = STATUS_OK;
    if (!piece || !sums || !head)
        status = error_set(err, STATUS_MEMORY, "out of memory for writing");
#ifdef __linux__
    /* Finds a full disk before it is; where the file system cannot, writing will. */
    if (status == STATUS_OK && fallocate(fd, 0, 0, (off_t)layout->file_bytes) != 0 &&
        errno == ENOSPC)
        status = error_set(err, STATUS_DISK, "writing: %s", strerror(errno));
#endif
    if (status == STATUS_OK)
        status = write_data(fd, contents, panels, piece, sums, err);
    if (status == STATUS_OK) {
        sidecar_write_head(&contents->digest, layout, contents->matrices, sums, head);
        status = write_all(fd, head, layout->data_offset, 0, err);
    }
    if (status == STATUS_OK && fsync(fd) != 0)
        status = error_set(err, STATUS_DISK, "writing: %s", strerror(errno));
    free(piece);
    free(sums);
    free(head);
    return status;
}

enum status packed_folder_write(int folder, uint64_t most_bytes,
                                const struct packed_contents *contents,
                                const uint8_t *const *panels, struct error *err)
{
    char name[PACKED_NAME_BYTES], unfinished[PACKED_NAME_BYTES];
    packed_name(&contents->digest, ".sluice", name);
    packed_name(&contents->digest, ".tmp", unfinished);
    if (faccessat(folder, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        return STATUS_OK; /* another process was first */
    enum status status = make_room(folder, most_bytes, contents->layout.file_bytes, err);
    if (status != STATUS_OK)
        return status;
    int fd = openat(folder, unfinished, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return error_set(err, STATUS_DISK, "%s: %s", unfinished, strerror(errno));
    status = write_file(fd, contents, panels, err);
    if (close(fd) != 0 && status == STATUS_OK)
        status = error_set(err, STATUS_DISK, "%s: %s", unfinished, strerror(errno));
    if (status == STATUS_OK && renameat(folder, unfinished, folder, name) != 0)
        status = error_set(err, STATUS_DISK, "%s: %s", name, strerror(errno));
    if (status != STATUS_OK)
        (void)unlinkat(folder, unfinished, 0);
    else
        (void)fsync(folder);
    return status;
}

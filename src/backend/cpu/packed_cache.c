/*
 * Finding, checking and mapping a file of packed weights, and the writer's life. What is done to the
 * folder while its lock is held is in packed_folder.c.
 */
#define _GNU_SOURCE
#include "backend/cpu/packed_cache.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "backend/cpu/packed_folder.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/wait.h"

#define PATIENCE_NS 1000000000 /* of closing, before it says what it waits for */
#define LOCK_TRY_NS 20000000
#define LOCK_TRIES  10
#define NICENESS    10

struct packed_cache {
    char *path; /* owned; of the folder */
    int folder;
    uint64_t most_bytes;
    /* The file in use. */
    int file; /* holds the shared lock; -1: none */
    struct mapped_file *map;
    /* The writer. */
    pthread_t thread;
    bool writing;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool closing, finished;
    const struct packed_contents *contents;
    const uint8_t *const *panels;
};

enum status packed_cache_open(const char *folder, uint64_t most_bytes, struct packed_cache **out,
                              struct error *err)
{
    struct packed_cache *cache = calloc(1, sizeof *cache);
    *out = NULL;
    if (!cache || !(cache->path = strdup(folder))) {
        free(cache);
        return error_set(err, STATUS_MEMORY, "out of memory for the cache of packed weights");
    }
    cache->most_bytes = most_bytes;
    cache->file = -1;
    if (mkdir(folder, 0700) != 0 && errno != EEXIST) {
        error_set(err, STATUS_DISK, "%s: cannot be made: %s", folder, strerror(errno));
        goto failed;
    }
    cache->folder = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (cache->folder < 0) {
        error_set(err, STATUS_DISK, "%s: cannot be opened as a folder: %s", folder,
                  strerror(errno));
        goto failed;
    }
    pthread_mutex_init(&cache->lock, NULL);
    cond_init(&cache->changed);
    *out = cache;
    return STATUS_OK;
failed:
    free(cache->path);
    free(cache);
    return STATUS_DISK;
}

static void let_go(struct packed_cache *cache)
{
    mapped_file_close(cache->map);
    if (cache->file >= 0)
        close(cache->file); /* and its lock */
    cache->map = NULL;
    cache->file = -1;
}

/* ---- finding ----------------------------------------------------------------------------------- */

/* Whoever clears files holds one for an instant; who holds it longer is not waited for. */
static bool lock_shared(int fd)
{
    const struct timespec pause = {0, LOCK_TRY_NS};
    for (int tries = 0; tries < LOCK_TRIES; tries++) {
        if (flock(fd, LOCK_SH | LOCK_NB) == 0)
            return true;
        if (errno != EWOULDBLOCK && errno != EINTR)
            return false;
        nanosleep(&pause, NULL);
    }
    return false;
}

/* Opened and locked; -1: there is none, or it is not to be trusted. */
static int open_file(const struct packed_cache *cache, const char *name)
{
    struct stat info;
    int fd = openat(cache->folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) {
        if (errno != ENOENT)
            log_warn("%s/%s: not used: %s", cache->path, name, strerror(errno));
        return -1;
    }
    const char *problem = NULL;
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode))
        problem = "it is no regular file";
    else if (info.st_uid != geteuid() && info.st_uid != 0)
        problem = "it belongs to another user";
    else if (info.st_mode & (S_IWGRP | S_IWOTH))
        problem = "others may write it";
    else if (!lock_shared(fd))
        problem = "another process has it locked";
    if (!problem)
        return fd;
    log_warn("%s/%s: not used: %s", cache->path, name, problem);
    close(fd);
    return -1;
}

/* Removes what the name stands for, if that is still the file that was looked at. */
static void remove_file(const struct packed_cache *cache, const char *name)
{
    struct stat opened, named;
    if (fstat(cache->file, &opened) == 0 &&
        fstatat(cache->folder, name, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
        opened.st_ino == named.st_ino && opened.st_dev == named.st_dev)
        (void)unlinkat(cache->folder, name, 0);
}

static enum status check_contents(const struct sidecar *sidecar,
                                  const struct packed_contents *contents, struct error *err)
{
    if (memcmp(&sidecar->digest, &contents->digest, sizeof sidecar->digest) != 0)
        return error_set(err, STATUS_INTEGRITY, "its digest is not that of its name");
    if (sidecar->layout.n_matrices != contents->layout.n_matrices)
        return error_set(err, STATUS_INTEGRITY, "it has %u matrices, the model %u",
                         sidecar->layout.n_matrices, contents->layout.n_matrices);
    for (uint32_t i = 0; i < contents->layout.n_matrices; i++) {
        struct sidecar_matrix m = sidecar_matrix_at(sidecar, i);
        if (memcmp(&m, &contents->matrices[i], sizeof m) != 0)
            return error_set(err, STATUS_INTEGRITY, "matrix %u is not the model's", i);
    }
    return STATUS_OK;
}

struct checking {
    const struct sidecar *sidecar;
    atomic_uint_fast64_t next, bad; /* chunks; bad: UINT64_MAX while all are right */
};

/* Threads take chunks in turn, so that none is late where processors are shared. */
static void check_chunks(void *context, uint32_t index, uint32_t n_threads)
{
    (void)index;
    (void)n_threads;
    struct checking *checking = context;
    for (;;) {
        uint64_t chunk = atomic_fetch_add(&checking->next, 1);
        if (chunk >= checking->sidecar->layout.n_chunks ||
            atomic_load(&checking->bad) != UINT64_MAX)
            return;
        if (!sidecar_check_chunk(checking->sidecar, chunk))
            atomic_store(&checking->bad, chunk);
    }
}

static enum status check_file(struct packed_cache *cache, const struct packed_contents *contents,
                              struct thread_pool *pool, struct sidecar *sidecar, struct error *err)
{
    const uint8_t *bytes = mapped_file_data(cache->map);
    enum status status = sidecar_parse(bytes, mapped_file_size(cache->map), sidecar, err);
    if (status == STATUS_OK)
        status = check_contents(sidecar, contents, err);
    if (status != STATUS_OK)
        return status;
    struct checking checking = {.sidecar = sidecar, .next = 0, .bad = UINT64_MAX};
    thread_pool_run(pool, check_chunks, &checking);
    uint64_t bad = atomic_load(&checking.bad);
    if (bad != UINT64_MAX)
        return error_set(err, STATUS_INTEGRITY, "the sum of chunk %llu (at offset %llu) is wrong",
                         (unsigned long long)bad,
                         (unsigned long long)(sidecar->layout.data_offset + bad * SIDECAR_CHUNK));
    if (mapped_file_damaged(cache->map))
        return error_set(err, STATUS_INTEGRITY, "it was cut short while it was checked");
    return STATUS_OK;
}

const uint8_t *packed_cache_find(struct packed_cache *cache, const struct packed_contents *contents,
                                 struct thread_pool *pool)
{
    char name[PACKED_NAME_BYTES];
    struct sidecar sidecar;
    struct error err = {0};
    uint64_t begin = clock_now_ns();
    packed_name(&contents->digest, ".sluice", name);
    cache->file = open_file(cache, name);
    if (cache->file < 0)
        return NULL;
    enum status status = mapped_file_of(cache->file, name, &cache->map, &err);
    if (status == STATUS_OK) {
        mapped_file_expect_reading(cache->map);
        status = check_file(cache, contents, pool, &sidecar, &err);
    }
    if (status != STATUS_OK) {
        log_warn("%s/%s: not used, weights are packed anew: %s", cache->path, name, err.message);
        if (status == STATUS_INTEGRITY)
            remove_file(cache, name);
        let_go(cache);
        return NULL;
    }
    /* Now is when it was used. Fails for who may only read: then it is somebody else's to clear. */
    (void)futimens(cache->file, NULL);
    log_info("%s/%s: %.1f MiB of packed weights mapped, checked in %.3f s", cache->path, name,
             (double)sidecar.layout.data_bytes / 0x1p20, (double)(clock_now_ns() - begin) * 1e-9);
    return sidecar.data;
}

bool packed_cache_damaged(const struct packed_cache *cache)
{
    return cache->map && mapped_file_damaged(cache->map);
}

/* ---- writing ----------------------------------------------------------------------------------- */

static bool is_closing(struct packed_cache *cache)
{
    pthread_mutex_lock(&cache->lock);
    bool closing = cache->closing;
    pthread_mutex_unlock(&cache->lock);
    return closing;
}

/* The folder's lock, waited for until the cache closes; -1: not got. */
static int lock_folder(struct packed_cache *cache)
{
    const struct timespec pause = {0, LOCK_TRY_NS};
    int fd = openat(cache->folder, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0) {
        log_warn("%s/lock: %s: packed weights are not kept", cache->path, strerror(errno));
        return -1;
    }
    while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        bool busy = errno == EWOULDBLOCK || errno == EINTR;
        if (!busy || is_closing(cache)) {
            log_warn("%s/lock: %s: packed weights are not kept", cache->path,
                     busy ? "another process writes there" : strerror(errno));
            close(fd);
            return -1;
        }
        nanosleep(&pause, NULL);
    }
    return fd;
}

static void *write_main(void *context)
{
    struct packed_cache *cache = context;
    struct error err = {0};
#ifdef __linux__
    /* Answers go first: this thread's priority alone. */
    (void)setpriority(PRIO_PROCESS, (id_t)gettid(), NICENESS);
#endif
    int lock = lock_folder(cache);
    if (lock >= 0) {
        uint64_t begin = clock_now_ns();
        enum status status = packed_folder_write(cache->folder, cache->most_bytes, cache->contents,
                                                 cache->panels, &err);
        if (status == STATUS_OK)
            log_info("%s: %.1f MiB of packed weights kept, in %.1f s", cache->path,
                     (double)cache->contents->layout.data_bytes / 0x1p20,
                     (double)(clock_now_ns() - begin) * 1e-9);
        else
            log_warn("%s: packed weights are not kept: %s", cache->path, err.message);
        close(lock);
    }
    pthread_mutex_lock(&cache->lock);
    cache->finished = true;
    pthread_cond_signal(&cache->changed);
    pthread_mutex_unlock(&cache->lock);
    return NULL;
}

void packed_cache_keep(struct packed_cache *cache, const struct packed_contents *contents,
                       const uint8_t *const *panels)
{
    struct error err = {0};
    cache->contents = contents;
    cache->panels = panels;
    cache->writing = thread_start(&cache->thread, write_main, cache, &err) == STATUS_OK;
    if (!cache->writing)
        log_warn("%s: packed weights are not kept: %s", cache->path, err.message);
}

static void finish_writing(struct packed_cache *cache)
{
    uint64_t deadline = clock_now_ns() + PATIENCE_NS;
    pthread_mutex_lock(&cache->lock);
    cache->closing = true;
    while (!cache->finished && cond_wait_until(&cache->changed, &cache->lock, deadline))
        ;
    bool finished = cache->finished;
    pthread_mutex_unlock(&cache->lock);
    if (!finished)
        log_warn("%s: still writing %.1f MiB of packed weights, which is done once", cache->path,
                 (double)cache->contents->layout.data_bytes / 0x1p20);
    pthread_join(cache->thread, NULL);
}

void packed_cache_close(struct packed_cache *cache)
{
    if (!cache)
        return;
    if (cache->writing)
        finish_writing(cache);
    let_go(cache);
    close(cache->folder);
    pthread_mutex_destroy(&cache->lock);
    pthread_cond_destroy(&cache->changed);
    free(cache->path);
    free(cache);
}

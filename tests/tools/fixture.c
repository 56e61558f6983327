#include "fixture.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

static char *next_path(void)
{
    static char paths[8][1024];
    static unsigned next;
    return paths[next++ % 8];
}

const char *fixture_path(const char *relative)
{
    char *path = next_path();
    snprintf(path, 1024, "%s/%s", SLUICE_SOURCE_DIR, relative);
    return path;
}

const char *fixture_shared(const char *relative)
{
    const char *root = getenv("SLUICE_SHARED");
    char *path = next_path();
    if (root)
        snprintf(path, 1024, "%s/%s", root, relative);
    else
        snprintf(path, 1024, "%s/../shared/%s", SLUICE_SOURCE_DIR, relative);
    if (file_exists(path))
        return path;
    printf("SKIPPED: needs %s, which is not here (set SLUICE_SHARED)\n", relative);
    return NULL;
}

struct buf fixture_read(const char *path)
{
    struct buf text = {0};
    struct error err = {0};
    assert_ok(file_read_all(path, (size_t)1 << 30, &text, &err), &err);
    return text;
}

const char *fixture_scratch(void)
{
    static char path[1024];
    if (!path[0]) {
        snprintf(path, sizeof path, "%s/scratch-%ld", SLUICE_BINARY_DIR, (long)getpid());
        mkdir(path, 0755);
    }
    return path;
}

const char *fixture_scratch_file(const char *name)
{
    static char paths[8][1200];
    static unsigned next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", fixture_scratch(), name);
    return path;
}

void fixture_remove_folder(const char *path)
{
    char file[4096];
    DIR *dir = opendir(path);
    for (struct dirent *entry; dir && (entry = readdir(dir)) != NULL;)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            snprintf(file, sizeof file, "%s/%s", path, entry->d_name);
            unlink(file);
        }
    if (dir)
        closedir(dir);
    rmdir(path);
}

void fixture_need_files(unsigned n)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur >= n)
        return;
    print_message("SKIPPED: needs %u files open at once, the limit is %llu\n", n,
                  (unsigned long long)files.rlim_cur);
    skip();
}

void assert_ok_(enum status status, const struct error *err, const char *file, int line)
{
    if (status == STATUS_OK)
        return;
    print_error("%s: %s\n", status_name(status), err ? err->message : "");
    _fail(file, line);
}

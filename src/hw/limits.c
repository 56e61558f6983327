/*
 * Memory and processor limits.
 *
 * On Linux a process in a container sees the whole machine in most places; what it may really use
 * stands in its control group and all groups above it. Version 2 has one tree under
 * /sys/fs/cgroup, version 1 one per controller under /sys/fs/cgroup/CONTROLLER; /proc/self/cgroup
 * names the process's place in each ("0::/path" or "4:memory:/path"). Inside a container that path
 * may not exist in the mounted tree, whose root then is the container's own group; so every prefix
 * of the path is looked at, the root included, and the tightest limit counts.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "hw/sources.h"

#define SYSTEM_FILE_MAX (256u << 10)
#define GROUP_PATH_MAX  1024

static bool read_text(const char *path, struct buf *text)
{
    buf_clear(text);
    return file_exists(path) && file_read_all(path, SYSTEM_FILE_MAX, text, NULL) == STATUS_OK &&
           text->data;
}

/* A file that holds one number. "max" and what is no number: false. */
static bool read_number(const char *folder, const char *name, uint64_t *out)
{
    char path[GROUP_PATH_MAX + 64];
    struct buf text = {0};
    bool found = false;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    if (read_text(path, &text))
        found = sscanf(text.data, "%" SCNu64, out) == 1;
    buf_release(&text);
    return found;
}

/* The number after `key` at the start of a line. */
static bool find_number(const struct buf *text, const char *key, uint64_t *out)
{
    size_t length = strlen(key);
    for (const char *line = text->data; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, key, length) == 0)
            return sscanf(line + length, "%" SCNu64, out) == 1;
    }
    return false;
}

bool hardware_resident(struct resident_memory *out)
{
    struct buf text = {0};
    uint64_t own, files, shared, most;
    bool found = read_text("/proc/self/status", &text) && find_number(&text, "RssAnon:", &own) &&
                 find_number(&text, "RssFile:", &files) &&
                 find_number(&text, "RssShmem:", &shared) && find_number(&text, "VmHWM:", &most);
    if (found)
        *out = (struct resident_memory){own << 10, (files + shared) << 10, most << 10};
    buf_release(&text);
    return found;
}

static void read_meminfo(struct hardware *hw, const char *root)
{
    char path[GROUP_PATH_MAX];
    struct buf text = {0};
    uint64_t kib;
    snprintf(path, sizeof path, "%s/proc/meminfo", root);
    if (read_text(path, &text)) {
        if (find_number(&text, "MemTotal:", &kib))
            hw->memory_total = kib << 10;
        if (find_number(&text, "MemAvailable:", &kib))
            hw->memory_available = kib << 10;
    }
    buf_release(&text);
}

/* How the two versions name the same things. */
struct group_files {
    const char *memory_limit, *memory_used, *inactive_files;
};

static const struct group_files version_1 = {"memory.limit_in_bytes", "memory.usage_in_bytes",
                                             "total_inactive_file "};
static const struct group_files version_2 = {"memory.max", "memory.current", "inactive_file "};

static void apply_memory_limit(struct hardware *hw, const char *folder,
                               const struct group_files *files)
{
    uint64_t limit, used = 0, reclaimable = 0;
    /* Version 1 says "no limit" as a number larger than any memory. */
    if (!read_number(folder, files->memory_limit, &limit) ||
        (hw->memory_total && limit >= hw->memory_total))
        return;
    if (hw->memory_limit == 0 || limit < hw->memory_limit)
        hw->memory_limit = limit;
    char path[GROUP_PATH_MAX + 64];
    struct buf text = {0};
    snprintf(path, sizeof path, "%s/memory.stat", folder);
    if (read_text(path, &text))
        find_number(&text, files->inactive_files, &reclaimable);
    buf_release(&text);
    read_number(folder, files->memory_used, &used);
    used -= reclaimable < used ? reclaimable : used;
    uint64_t available = used < limit ? limit - used : 0;
    if (available < hw->memory_available)
        hw->memory_available = available;
}

static void apply_quota(struct hardware *hw, const char *folder, const struct group_files *files)
{
    int64_t quota = 0, period = 0;
    if (files == &version_2) {
        char path[GROUP_PATH_MAX + 64];
        struct buf text = {0};
        snprintf(path, sizeof path, "%s/cpu.max", folder); /* "max 100000" or "50000 100000" */
        if (read_text(path, &text) &&
            sscanf(text.data, "%" SCNd64 " %" SCNd64, &quota, &period) != 2)
            quota = 0;
        buf_release(&text);
    } else {
        uint64_t q = 0, p = 0; /* -1, no quota, reads as 2^64 - 1 */
        if (read_number(folder, "cpu.cfs_quota_us", &q) &&
            read_number(folder, "cpu.cfs_period_us", &p) && q < INT64_MAX && p < INT64_MAX) {
            quota = (int64_t)q;
            period = (int64_t)p;
        }
    }
    if (quota <= 0 || period <= 0)
        return;
    double processors = (double)quota / (double)period;
    if (hw->cpu_quota == 0 || processors < hw->cpu_quota)
        hw->cpu_quota = processors;
}

typedef void (*apply_fn)(struct hardware *hw, const char *folder, const struct group_files *files);

/* Applies the limits of mount + group and of every group above it, the mount's root last. */
static void walk_groups(struct hardware *hw, const char *mount, struct str group, apply_fn apply,
                        const struct group_files *files)
{
    char folder[GROUP_PATH_MAX];
    size_t mount_length = strlen(mount);
    if (mount_length + group.len >= sizeof folder)
        group.len = 0;
    memcpy(folder, mount, mount_length);
    memcpy(folder + mount_length, group.data, group.len);
    for (size_t length = mount_length + group.len;; length--) {
        if (length > mount_length && folder[length - 1] == '/')
            continue; /* "/": the root comes below; "a//b": nothing new */
        if (length == mount_length + group.len || length == mount_length || folder[length] == '/') {
            folder[length] = 0;
            apply(hw, folder, files);
        }
        if (length == mount_length)
            return;
    }
}

/* One line of /proc/self/cgroup: "ID:CONTROLLERS:PATH". */
static void read_group_line(struct hardware *hw, const char *root, struct str line)
{
    size_t first = str_find(line, STR_LIT(":"), 0);
    size_t second = first == SIZE_MAX ? SIZE_MAX : str_find(line, STR_LIT(":"), first + 1);
    if (second == SIZE_MAX)
        return;
    struct str controllers = {line.data + first + 1, second - first - 1};
    struct str group = {line.data + second + 1, line.len - second - 1};
    if (str_find(group, STR_LIT(".."), 0) != SIZE_MAX) /* outside our view of the tree */
        group.len = 0;
    char mount[GROUP_PATH_MAX / 2];
    if (controllers.len == 0) {
        snprintf(mount, sizeof mount, "%s/sys/fs/cgroup", root);
        walk_groups(hw, mount, group, apply_memory_limit, &version_2);
        walk_groups(hw, mount, group, apply_quota, &version_2);
    } else if (str_eq_cstr(controllers, "memory")) {
        snprintf(mount, sizeof mount, "%s/sys/fs/cgroup/memory", root);
        walk_groups(hw, mount, group, apply_memory_limit, &version_1);
    } else if (str_eq_cstr(controllers, "cpu") || str_eq_cstr(controllers, "cpu,cpuacct") ||
               str_eq_cstr(controllers, "cpuacct,cpu")) {
        snprintf(mount, sizeof mount, "%s/sys/fs/cgroup/cpu", root);
        walk_groups(hw, mount, group, apply_quota, &version_1);
    }
}

void hardware_read_limits(struct hardware *hw, const char *root)
{
    read_meminfo(hw, root);
    if (hw->memory_total == 0 && root[0] == 0) {
        long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
        if (pages > 0 && size > 0)
            hw->memory_total = (uint64_t)pages * (uint64_t)size;
    }
    char path[GROUP_PATH_MAX / 2];
    struct buf text = {0};
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    if (read_text(path, &text))
        for (const char *line = text.data; *line;) {
            size_t length = strcspn(line, "\n");
            read_group_line(hw, root, (struct str){line, length});
            line += length + (line[length] == '\n');
        }
    buf_release(&text);
}

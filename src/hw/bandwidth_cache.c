/*
 * The bandwidth of this machine, remembered. One small JSON file per machine and number of threads:
 *
 *   ~/.cache/sluice/bandwidth-0123456789abcdef.json   {"bytes_per_second": 3.1e10}
 *
 * The name is a digest of what the figure depends on, so a disk moved to another machine, or a
 * container given other cores, finds nothing and measures. What it says is checked for plausibility:
 * the worst a tampered file can do is a wrong number in a report. It is written beside its place and
 * moved there, so that readers never see half a file.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/file.h"
#include "base/json.h"
#include "hw/hardware.h"

#define PATH_BYTES     1024
#define CACHE_FILE_MAX 4096
#define LEAST          1e7 /* bytes per second */
#define MOST           1e14

static uint64_t machine_digest(const struct hardware *hw, uint32_t n_threads)
{
    char text[512];
    int n = snprintf(text, sizeof text, "1|%s|%s|%s|%u|%u|%u|%u|%llu|%llu|%llu|%u|%llu|%u",
                     hw->cpu_vendor, hw->cpu_model, hw->architecture, hw->n_packages, hw->n_cores,
                     hw->n_usable_threads, hw->n_numa_nodes, (unsigned long long)hw->l1d_bytes,
                     (unsigned long long)hw->l2_bytes, (unsigned long long)hw->l3_bytes, hw->n_l3,
                     (unsigned long long)hw->memory_total, n_threads);
    return XXH3_64bits(text, n > 0 && (size_t)n < sizeof text ? (size_t)n : sizeof text - 1);
}

/* Folder of the cache, made where it does not exist. */
static bool cache_folder(char out[PATH_BYTES])
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char parent[PATH_BYTES];
    int n;
    if (cache && cache[0] == '/')
        n = snprintf(parent, sizeof parent, "%s", cache);
    else if (home && home[0] == '/')
        n = snprintf(parent, sizeof parent, "%s/.cache", home);
    else
        return false;
    if (n < 0 || (size_t)n >= sizeof parent)
        return false;
    n = snprintf(out, PATH_BYTES, "%s/sluice", parent);
    if (n < 0 || n >= PATH_BYTES)
        return false;
    mkdir(parent, 0700);
    return mkdir(out, 0700) == 0 || errno == EEXIST;
}

static bool read_cache(const char *path, double *bytes_per_second)
{
    json_t *root = NULL;
    if (!file_exists(path) || json_parse_file(path, CACHE_FILE_MAX, 4, &root, NULL) != STATUS_OK)
        return false;
    json_t *value = json_object_get(root, "bytes_per_second");
    double found = json_is_number(value) ? json_number_value(value) : 0;
    json_decref(root);
    if (!(found >= LEAST && found <= MOST))
        return false;
    *bytes_per_second = found;
    return true;
}

static void write_cache(const char *path, double bytes_per_second)
{
    char beside[PATH_BYTES + 32];
    snprintf(beside, sizeof beside, "%s.%ld", path, (long)getpid());
    FILE *file = fopen(beside, "w");
    if (!file)
        return;
    bool written = fprintf(file, "{\"bytes_per_second\": %.6e}\n", bytes_per_second) > 0;
    written &= fclose(file) == 0;
    if (!written || rename(beside, path) != 0)
        remove(beside);
}

enum status hardware_bandwidth(const struct hardware *hw, uint32_t n_threads, bool again,
                               double *bytes_per_second, struct error *err)
{
    char folder[PATH_BYTES], path[PATH_BYTES + 64] = "";
    if (cache_folder(folder))
        snprintf(path, sizeof path, "%s/bandwidth-%016llx.json", folder,
                 (unsigned long long)machine_digest(hw, n_threads));
    if (path[0] && !again && read_cache(path, bytes_per_second))
        return STATUS_OK;
    enum status status = hardware_measure_bandwidth(hw, n_threads, bytes_per_second, err);
    if (status == STATUS_OK && path[0])
        write_cache(path, *bytes_per_second);
    return status;
}

#include "model_folder.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/json.h"
#include "fixture.h"
#include "scratch.h"

static char folder[1100];

void model_folder_file(const char *name, const char *text)
{
    char path[1400];
    const char *slash = strchr(name, '/');
    if (slash) {
        snprintf(path, sizeof path, "%s/%.*s", folder, (int)(slash - name), name);
        mkdir(path, 0755);
    }
    snprintf(path, sizeof path, "%s/%s", folder, name);
    scratch_write_text(path, text);
}

static const char *file_of(const char *fixture, const char *name)
{
    static char path[1400];
    if (fixture[0] == '/')
        snprintf(path, sizeof path, "%s/%s", fixture, name);
    else
        snprintf(path, sizeof path, "%s/tests/data/arch/hf/%s/%s", fixture_path("."), fixture,
                 name);
    return path;
}

const char *model_folder(const char *fixture, const char *changes)
{
    static unsigned number;
    char weights[1400];
    struct error err = {0};
    json_t *config, *change, *value;
    const char *key;
    snprintf(folder, sizeof folder, "%s/model-%u", fixture_scratch(), number++);
    mkdir(folder, 0755);
    assert_ok(json_parse_file(file_of(fixture, "config.json"), 1 << 20, 64, &config, &err), &err);
    assert_ok(json_parse(str_from(changes), 64, "changes", &change, &err), &err);
    json_object_foreach(change, key, value)
    {
        if (json_is_null(value))
            json_object_del(config, key);
        else
            json_object_set(config, key, value);
    }
    char *text = json_dumps(config, 0);
    assert_non_null(text);
    model_folder_file("config.json", text);
    free(text);
    json_decref(config);
    json_decref(change);
    snprintf(weights, sizeof weights, "%s/model.safetensors", folder);
    assert_int_equal(symlink(file_of(fixture, "model.safetensors"), weights), 0);
    return folder;
}

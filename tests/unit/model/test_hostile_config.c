/*
 * Every field of every config and of every GGUF file's metadata, absent and absurd: a model opens or is
 * refused by a sentence, and nothing crashes, hangs, or asks for the machine's memory. The fixtures are
 * the committed ones, and a rotating part of the cases over those of shared data.
 */
#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "fixture.h"
#include "format/gguf.h"
#include "model/model.h"
#include "model_folder.h"
#include "scratch.h"

struct tally {
    unsigned cases, opened, refused, named;
};

/* A refusal is about the model (never "internal" or "out of memory"), and says something. */
static void judge(const char *path, const char *field, const char *what, struct tally *tally)
{
    struct model *model = NULL;
    struct error err = {0};
    enum status status = model_open(path, &model, &err);
    tally->cases++;
    if (status == STATUS_OK) {
        tally->opened++;
        model_close(model);
        return;
    }
    tally->refused++;
    assert_null(model);
    size_t n = strlen(path);
    const char *message = strncmp(err.message, path, n) == 0 ? err.message + n : err.message;
    bool fair = status == STATUS_MODEL || status == STATUS_UNSUPPORTED || status == STATUS_LIMIT;
    if (!fair || strlen(message) < 12)
        fail_msg("%s with %s %s: %s: %s", path, field, what, status_name(status), err.message);
    bool named = strstr(message, field) != NULL;
    tally->named += named;
    if (getenv("SLUICE_SHOW_CONFIGS"))
        print_message("%s %s %s: %s\n", named ? "   " : "???", field, what, message);
}

/* ---- config.json ------------------------------------------------------------------------------- */

static const char *const absurd[] = {
    "null",  "0",  "-1", "4294967295",        "1e18", "0.5",
    "\"x\"", "[]", "{}", "[null, -7, \"y\"]", "true",
};
#define N_ABSURD (sizeof absurd / sizeof *absurd)

/* Thousands of them are made. */
static void remove_folder(const char *folder)
{
    char path[1200];
    snprintf(path, sizeof path, "%s/config.json", folder);
    unlink(path);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    unlink(path);
    rmdir(folder);
}

static void spoil_config(const char *folder, unsigned every, unsigned *turn, struct tally *tally)
{
    char path[1200], changes[1400];
    struct error err = {0};
    json_t *config;
    const char *key;
    json_t *value;
    snprintf(path, sizeof path, "%s/config.json", folder);
    assert_ok(json_parse_file(path, 1 << 20, 64, &config, &err), &err);
    json_object_foreach(config, key, value)
    {
        for (size_t i = 0; i < N_ABSURD; i++) {
            if ((*turn)++ % every)
                continue;
            snprintf(changes, sizeof changes, "{\"%s\": %s}", key, absurd[i]);
            const char *spoiled = model_folder(folder, changes);
            judge(spoiled, key, absurd[i], tally);
            remove_folder(spoiled);
        }
    }
    json_decref(config);
}

/* ---- GGUF metadata ----------------------------------------------------------------------------- */

enum spoil { ABSENT, ZERO, ONES, HUGE_FLOAT, OTHER_TYPE, SPOILS };
static const char *const spoils[] = {"absent", "zero", "all ones", "huge", "of another type"};

/* In the file's image; false where the value has no such form. */
static bool spoil_value(char *image, const char *base, const struct gguf_value *value,
                        enum spoil how)
{
    char *at = image + (value->data - (const uint8_t *)base);
    size_t key = (size_t)(value->key.data - base);
    size_t item = value->count ? (size_t)(value->bytes / value->count) : 0;
    float huge = 3e38f;
    switch (how) {
    case ABSENT:
        image[key + value->key.len - 1] = '~';
        return true;
    case ZERO:
        memset(at, 0, value->type == GGUF_STRING ? 0 : (size_t)value->bytes);
        return value->type != GGUF_STRING && value->item_type != GGUF_STRING;
    case ONES:
        memset(at, 255, value->type == GGUF_STRING ? 0 : (size_t)value->bytes);
        return item == 4;
    case HUGE_FLOAT:
        if (value->type == GGUF_F32)
            memcpy(at, &huge, sizeof huge);
        return value->type == GGUF_F32;
    case OTHER_TYPE: /* the same four bytes, as a float or an integer */
        if (value->type != GGUF_U32 && value->type != GGUF_F32)
            return false;
        at[-4] = value->type == GGUF_U32 ? GGUF_F32 : GGUF_U32;
        return true;
    case SPOILS:
        break;
    }
    return false;
}

static void spoil_gguf(const char *path, unsigned every, unsigned *turn, struct tally *tally)
{
    char output[1200];
    struct buf file = fixture_read(path);
    struct gguf *gguf;
    struct error err = {0};
    assert_ok(gguf_parse((const uint8_t *)file.data, file.len, path, &gguf, &err), &err);
    char *image = malloc(file.len);
    assert_non_null(image);
    snprintf(output, sizeof output, "%s/spoiled.gguf", fixture_scratch());
    for (size_t i = 0; i < gguf_value_count(gguf); i++) {
        const struct gguf_value *value = gguf_value_at(gguf, i);
        char field[200];
        size_t dot = str_find(value->key, STR_LIT("."), 0);
        bool general = str_starts(value->key, STR_LIT("general.")) &&
                       !str_eq_cstr(value->key, "general.architecture");
        if (dot == SIZE_MAX || general || str_starts(value->key, STR_LIT("tokenizer.")))
            continue;
        snprintf(field, sizeof field, "%.*s", (int)(value->key.len - dot - 1),
                 value->key.data + dot + 1);
        for (enum spoil how = ABSENT; how < SPOILS; how++) {
            if ((*turn)++ % every)
                continue;
            memcpy(image, file.data, file.len);
            if (!spoil_value(image, file.data, value, how))
                continue;
            scratch_write(output, image, file.len);
            judge(output, field, spoils[how], tally);
        }
    }
    free(image);
    gguf_free(gguf);
    buf_release(&file);
}

/* ---- the sets ---------------------------------------------------------------------------------- */

static unsigned run_folder(const char *root, const char *below, unsigned every, bool gguf,
                           struct tally *tally)
{
    char path[1200], full[1500];
    unsigned n = 0, turn = 0;
    snprintf(path, sizeof path, "%s/%s", root, below);
    DIR *dir = opendir(path);
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(full, sizeof full, "%s/%s", path, entry->d_name);
        n++;
        if (gguf)
            spoil_gguf(full, every, &turn, tally);
        else
            spoil_config(full, every, &turn, tally);
    }
    closedir(dir);
    return n;
}

static void run_set(const char *root, unsigned every)
{
    struct tally config = {0}, metadata = {0};
    unsigned n = run_folder(root, "hf", every, false, &config);
    unsigned m = run_folder(root, "gguf", every, true, &metadata);
    print_message("%u folders: %u cases, %u opened, %u refused, %u by the field's own name\n", n,
                  config.cases, config.opened, config.refused, config.named);
    print_message("%u files: %u cases, %u opened, %u refused, %u by the field's own name\n", m,
                  metadata.cases, metadata.opened, metadata.refused, metadata.named);
    assert_true(config.refused > 20 && metadata.refused > 20);
}

static void test_committed(void **state)
{
    (void)state;
    char root[1100];
    snprintf(root, sizeof root, "%s", fixture_path("tests/data/arch"));
    run_set(root, 3);
}

static void test_shared(void **state)
{
    (void)state;
    char root[1100];
    if (!fixture_shared("data/arch"))
        skip();
    snprintf(root, sizeof root, "%s", fixture_shared("data/arch"));
    run_set(root, getenv("SLUICE_ALL_CONFIGS") ? 1 : 13);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_committed),
        cmocka_unit_test(test_shared),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

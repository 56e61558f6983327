/*
 * Reading the fields of a JSON object by a table: types and ranges are checked in one place, and
 * what the table does not know is collected by name instead of being lost.
 */
#ifndef SLUICE_API_FIELDS_H
#define SLUICE_API_FIELDS_H

#include <jansson.h>

#include "api/api.h"

enum field_kind {
    FIELD_FLOAT,  /* float */
    FIELD_U32,    /* uint32_t */
    FIELD_I32,    /* int32_t */
    FIELD_BOOL,   /* bool */
    FIELD_CUSTOM, /* read() */
    FIELD_ACCEPT, /* cannot change the answer: any value is fine */
};

struct field {
    const char *name;
    enum field_kind kind;
    size_t offset; /* in struct api_call */
    double least, most;
    uint32_t set; /* SLUICE_SET_ bits of options.sampling that it turns on */
    bool (*read)(struct api_call *call, const char *name, const json_t *value,
                 struct api_error *error);
};

/* The whole body as an object; *root is a new reference. */
bool fields_parse(struct str body, json_t **root, struct api_error *error);
/* Applies two tables (each ends with a NULL name) to the object. A null counts as absent. */
bool fields_read(struct api_call *call, const struct field *fields, const struct field *more,
                 json_t *object, struct api_error *error);

/* A whole number in [least, most], also written 64.0. */
bool fields_integer(const char *name, const json_t *value, int64_t least, int64_t most,
                    int64_t *out, struct api_error *error);
bool fields_float(const char *name, const json_t *value, double least, double most, float *out,
                  struct api_error *error);
/* Text without U+0000, copied into the call's arena. */
bool fields_text(struct api_call *call, const char *name, const json_t *value, const char **out,
                 struct api_error *error);

#endif

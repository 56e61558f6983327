/*
 * What backend.h promises beside results: refusals that leave the backend usable, tickets, pages,
 * names. Not for `ref`, which trusts its caller.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "drive.h"
#include "model/model.h"
#include "op_kit.h"
#include "suite.h"

#define CONTEXT 64

static void refuses(struct suite *suite, enum status status, const struct error *err,
                    const char *what)
{
    suite_check(suite, status == STATUS_INTERNAL && err->message[0],
                "contract: %s is not refused (status %d)", what, (int)status);
}

static const int32_t some_tokens[4] = {3, 1, 4, 1};

static void submissions(struct suite *suite, struct drive *d)
{
    struct error err = {.message = ""};
    uint64_t ticket = 0;
    float *logits = calloc(4 * (size_t)d->program->n_vocab, sizeof *logits);
    refuses(suite, d->api->wait(d->backend, 1, &err), &err, "waiting for nothing");
    drive_begin(d);
    drive_add(d, 0, 0, 1, NULL, 0, true, &err);
    refuses(suite, drive_submit(d, &ticket, &err), &err, "a drawn token before any draw");
    drive_begin(d);
    d->mapped[2] = true; /* without its table writes */
    drive_add(d, 2, 0, 4, some_tokens, 0, true, &err);
    refuses(suite, drive_submit(d, &ticket, &err), &err, "a slot without pages");
    d->mapped[2] = false;
    drive_begin(d);
    drive_add(d, 0, 0, 4, some_tokens, 0, true, &err);
    step_add_table_write(d->step, (struct table_write){0, 0, 0, d->layout.n_pages});
    refuses(suite, drive_submit(d, &ticket, &err), &err, "a page past the pool");
    drive_begin(d);
    d->step->limits.max_outputs++;
    drive_add(d, 0, 0, 4, some_tokens, 0, true, &err);
    refuses(suite, drive_submit(d, &ticket, &err), &err, "a step of other limits");
    d->step->limits.max_outputs--;
    drive_begin(d);
    d->mapped[0] = false; /* its writes were in a step that was refused */
    enum status status = drive_add(d, 0, 0, 4, some_tokens, 0, true, &err);
    if (status == STATUS_OK)
        status = drive_submit(d, &ticket, &err);
    if (status == STATUS_OK && logits)
        status = drive_logits(d, ticket, 0, 4, logits, &err);
    suite_check(suite, status == STATUS_OK && logits, "contract: after refusals: %s", err.message);
    refuses(suite,
            d->api->read_rows(d->backend, d->loaded, RESULT_LOGITS, ticket, 2, 3, logits, &err),
            &err, "reading past the results");
    refuses(suite, d->api->wait(d->backend, ticket + 1, &err), &err, "waiting for a later ticket");
    drive_begin_draws(d);
    struct sample_row row = {.output = 4, .mask_offset = NO_MASK};
    sample_step_add_row(d->draws, &row, NULL, NULL, 0, NULL, NULL);
    refuses(suite, drive_draw(d, &ticket, &err), &err, "drawing from logits that are not there");
    free(logits);
}

static void pages(struct suite *suite, struct drive *d)
{
    size_t bytes = d->layout.page_bytes;
    uint8_t *out = malloc(bytes), *in = malloc(bytes);
    struct error err = {.message = ""};
    bool same = out && in;
    for (uint32_t page = 0; page < 3 && same; page++) {
        for (size_t i = 0; i < bytes; i++)
            out[i] = (uint8_t)(i * 7 + page * 31 + (i >> 8));
        same = d->api->write_page(d->backend, page, out, &err) == STATUS_OK;
    }
    for (uint32_t page = 0; page < 3 && same; page++) {
        same = d->api->read_page(d->backend, page, in, &err) == STATUS_OK;
        for (size_t i = 0; i < bytes && same; i++)
            same = in[i] == (uint8_t)(i * 7 + page * 31 + (i >> 8));
    }
    suite_check(suite, same, "contract: pages do not come back as written %s", err.message);
    if (in)
        refuses(suite, d->api->read_page(d->backend, d->layout.n_pages, in, &err), &err,
                "reading a page past the pool");
    free(out);
    free(in);
}

static void names(struct suite *suite, struct drive *d)
{
    struct buf text = {0};
    bool named = true;
    for (uint32_t i = 0; i < d->program->n_ops; i++) {
        size_t before = text.len;
        d->api->describe(d->backend, d->loaded, i, &text);
        named &= text.len > before;
    }
    suite_check(suite, named, "contract: an operation's kernel has no name");
    buf_release(&text);
}

/* A type that no kernel of this release reads. */
static void unsupported_type(struct suite *suite)
{
    struct kit kit;
    struct error err = {.message = ""};
    struct backend *backend = NULL;
    struct backend_config config = {.exact = true, .batch_invariant = true};
    struct placed_weight *placed;
    kit_init(&kit, 1, 16);
    int32_t weight = kit_matrix(&kit, "strange", TENSOR_Q5_K, 1, 2, 256, 1.0f);
    if (suite_check(suite, !kit.failed && suite->api->open(&config, &backend, &err) == STATUS_OK,
                    "contract: %s", err.message)) {
        enum status status =
            suite->api->place(backend, kit.program, (uint32_t)weight, &placed, &err);
        suite_check(suite,
                    status == STATUS_UNSUPPORTED && strstr(err.message, "strange") &&
                        strstr(err.message, "Q5_K"),
                    "contract: placing a Q5_K weight gives status %d, \"%s\"", (int)status,
                    err.message);
        suite->api->close(backend);
    }
    kit_free(&kit);
}

void suite_contract(struct suite *suite)
{
    char path[1024];
    struct model *model = NULL;
    struct drive drive = {.backend = NULL};
    struct error err = {.message = ""};
    uint32_t before = suite->passed, failed = suite->failed;
    if (strcmp(suite->api->name, "ref") == 0)
        return;
    snprintf(path, sizeof path, "%s/tests/data/arch/hf/lfm2", suite->root);
    struct drive_config config = {.api = suite->api,
                                  .backend = {.exact = true, .batch_invariant = true},
                                  .kv_type = TENSOR_TYPE_END,
                                  .max_rows = 8,
                                  .max_context = CONTEXT};
    if (suite_check(suite, model_open(path, &model, &err) == STATUS_OK, "%s", err.message) &&
        suite_check(suite, drive_open(&drive, &config, model_program(model), &err) == STATUS_OK,
                    "%s", err.message)) {
        submissions(suite, &drive);
        pages(suite, &drive);
        names(suite, &drive);
    }
    drive_close(&drive);
    model_close(model);
    suite->api->close(NULL);
    unsupported_type(suite);
    printf("contract: %u passed, %u failed\n", suite->passed - before, suite->failed - failed);
}

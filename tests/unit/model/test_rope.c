/*
 * Rope scaling by known answers. The expected frequencies were computed from the published formulas
 * apart from this code (in Python, double precision), for heads of 32 columns and theta 10,000, for
 * pairs 0, 3, 7, 11 and 15; the model is the llama fixture with another config.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fixture.h"
#include "model/model.h"
#include "model_folder.h"

#define PICKED 5

static const uint32_t pairs[PICKED] = {0, 3, 7, 11, 15};

struct known {
    const char *changes;
    float freqs[PICKED];
    float magnitude;
};

static const struct known known[] = {
    {"{\"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 10000.0}}",
     {1, 0.177827941f, 0.0177827941f, 0.00177827941f, 0.000177827941f},
     1},
    /* the old dialect, with the old name of the kind */
    {"{\"rope_parameters\": null, \"rope_theta\": 10000.0,"
     " \"rope_scaling\": {\"type\": \"linear\", \"factor\": 4.0}}",
     {0.25f, 0.0444569853f, 0.00444569853f, 0.000444569853f, 4.44569853e-05f},
     1},
    {"{\"rope_parameters\": {\"rope_type\": \"linear\", \"factor\": 4.0}}",
     {0.25f, 0.0444569853f, 0.00444569853f, 0.000444569853f, 4.44569853e-05f},
     1},
    {"{\"rope_parameters\": {\"rope_type\": \"dynamic\", \"factor\": 4.0}}",
     {1, 0.177827941f, 0.0177827941f, 0.00177827941f, 0.000177827941f},
     1},
    {"{\"rope_parameters\": {\"rope_type\": \"dynamic\", \"factor\": 1.0, \"alpha\": 1000.0}}",
     {1, 0.0446683592f, 0.000707945784f, 1.12201845e-05f, 1.77827941e-07f},
     1},
    {"{\"rope_parameters\": {\"rope_type\": \"llama3\", \"factor\": 8.0, \"low_freq_factor\": 1.0,"
     " \"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 64}}",
     {1, 0.0643098724f, 0.00222284926f, 0.000222284926f, 2.22284926e-05f},
     1},
    {"{\"rope_parameters\": {\"rope_type\": \"yarn\", \"factor\": 4.0,"
     " \"original_max_position_embeddings\": 4096}}",
     {1, 0.177827941f, 0.0139721954f, 0.000635099789f, 4.44569853e-05f},
     1.13862944f},
    {"{\"rope_parameters\": {\"rope_type\": \"yarn\", \"factor\": 4.0, \"truncate\": false,"
     " \"original_max_position_embeddings\": 4096}}",
     {1, 0.177827941f, 0.0138753711f, 0.000501439657f, 4.44569853e-05f},
     1.13862944f},
    {"{\"rope_parameters\": {\"rope_type\": \"yarn\", \"factor\": 40.0, \"beta_fast\": 16,"
     " \"beta_slow\": 2, \"mscale\": 0.707, \"mscale_all_dim\": 0.5,"
     " \"original_max_position_embeddings\": 4096}}",
     {1, 0.177827941f, 0.0143151493f, 4.44569853e-05f, 4.44569853e-06f},
     1.0644689f},
    {"{\"rope_parameters\": {\"rope_type\": \"yarn\", \"factor\": 4.0, \"attention_factor\": 0.75,"
     " \"original_max_position_embeddings\": 4096}}",
     {1, 0.177827941f, 0.0139721954f, 0.000635099789f, 4.44569853e-05f},
     0.75f},
    /* made for 1,024 positions: beyond 256, so the long list */
    {"{\"rope_parameters\": {\"rope_type\": \"longrope\", \"rope_theta\": 10000.0,"
     " \"original_max_position_embeddings\": 256,"
     " \"short_factor\": [1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1],"
     " \"long_factor\": [1,1.25,1.5,1.75,2,2.25,2.5,2.75,3,3.25,3.5,3.75,4,4.25,4.5,4.75]}}",
     {1, 0.101615966f, 0.00646647058f, 0.000474207843f, 3.74374613e-05f},
     1.11803399f},
    /* within the original context: the short list, and nothing to make up for */
    {"{\"original_max_position_embeddings\": 2048,"
     " \"rope_parameters\": {\"rope_type\": \"longrope\", \"rope_theta\": 10000.0,"
     " \"long_factor\": [9,9,9,9,9,9,9,9,9,9,9,9,9,9,9,9], \"short_factor\":"
     " [1,1.125,1.25,1.375,1.5,1.625,1.75,1.875,2,2.125,2.25,2.375,2.5,2.625,2.75,2.875]}}",
     {1, 0.129329412f, 0.00948415685f, 0.000748749225f, 6.18531969e-05f},
     1},
};

static const struct op_rope_kv *rope_of(const struct program *program)
{
    for (uint32_t i = 0; i < program->n_ops; i++)
        if (program->ops[i].kind == OP_ROPE_KV)
            return &program->ops[i].u.rope_kv;
    return NULL;
}

static void near(float got, float wanted, size_t index, const char *what)
{
    if (!(fabsf(got - wanted) <= 2e-6f * wanted))
        fail_msg("case %zu: %s is %.9g, expected %.9g", index, what, (double)got, (double)wanted);
}

static void test_known_answers(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        struct model *model;
        struct error err = {0};
        assert_ok(model_open(model_folder("llama", known[i].changes), &model, &err), &err);
        const struct program *program = model_program(model);
        const struct op_rope_kv *rope = rope_of(program);
        assert_non_null(rope);
        assert_int_equal(rope->rope_dims, 32);
        const float *freqs = program->weights[rope->freqs].parts[0];
        for (uint32_t k = 0; k < PICKED; k++)
            near(freqs[pairs[k]], known[i].freqs[k], i, "a frequency");
        near(rope->magnitude, known[i].magnitude, i, "the magnitude");
        model_close(model);
    }
}

/* A part of each head turns; frequencies are spread over that part. */
static void test_partial(void **state)
{
    (void)state;
    struct model *model;
    struct error err = {0};
    assert_ok(model_open(model_folder("llama", "{\"partial_rotary_factor\": 0.5}"), &model, &err),
              &err);
    const struct program *program = model_program(model);
    const struct op_rope_kv *rope = rope_of(program);
    assert_int_equal(rope->rope_dims, 16);
    const float *freqs = program->weights[rope->freqs].parts[0];
    near(freqs[0], 1.0f, 0, "a frequency");
    near(freqs[1], 0.316227766f, 0, "a frequency"); /* 10000^(-2/16) */
    near(freqs[7], 0.000316227766f, 0, "a frequency");
    model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_answers),
        cmocka_unit_test(test_partial),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

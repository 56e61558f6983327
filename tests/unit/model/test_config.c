/*
 * Configs with missing or absurd fields: each is refused by a sentence that names the field. And what
 * sentence-transformers writes beside an embedding model.
 */
#include <stdio.h>
#include <string.h>

#include "fixture.h"
#include "model/model.h"
#include "model_folder.h"

struct broken {
    const char *fixture, *changes;
    const char *named; /* must stand in the message */
};

static const struct broken broken[] = {
    {"llama", "{\"model_type\": null}", "model_type"},
    {"llama", "{\"model_type\": \"telepathy\"}", "telepathy"},
    {"llama", "{\"model_type\": 7}", "model_type"},
    {"llama", "{\"hidden_size\": null}", "hidden_size"},
    {"llama", "{\"hidden_size\": 0}", "hidden_size"},
    {"llama", "{\"hidden_size\": 65}", "embed_tokens"},
    {"llama", "{\"hidden_size\": \"large\"}", "hidden_size"},
    {"llama", "{\"hidden_size\": 64.5}", "hidden_size"},
    {"llama", "{\"num_hidden_layers\": null}", "num_hidden_layers"},
    {"llama", "{\"num_hidden_layers\": -3}", "num_hidden_layers"},
    {"llama", "{\"num_hidden_layers\": 0}", "num_hidden_layers"},
    {"llama", "{\"num_hidden_layers\": 1000000000}", "num_hidden_layers"},
    {"llama", "{\"num_hidden_layers\": 4}", "layer 3"},
    {"llama", "{\"num_attention_heads\": 0}", "head"},
    {"llama", "{\"num_attention_heads\": 7}", "num_attention_heads"},
    {"llama", "{\"num_attention_heads\": 1e30}", "num_attention_heads"},
    {"llama", "{\"num_key_value_heads\": 8}", "num_key_value_heads"},
    {"llama", "{\"head_dim\": 0}", "head_dim"},
    {"llama", "{\"head_dim\": 31}", "rope"},
    {"llama", "{\"head_dim\": 34}", "q_proj"},
    {"llama", "{\"intermediate_size\": 1099511627776}", "intermediate_size"},
    {"llama", "{\"intermediate_size\": 100}", "mlp"},
    {"llama", "{\"max_position_embeddings\": 0}", "max_position_embeddings"},
    {"llama", "{\"max_position_embeddings\": []}", "max_position_embeddings"},
    {"llama", "{\"rms_norm_eps\": \"tiny\"}", "rms_norm_eps"},
    {"llama", "{\"rms_norm_eps\": -1}", "rms_norm_eps"},
    {"llama", "{\"hidden_act\": \"snake\"}", "snake"},
    {"llama", "{\"partial_rotary_factor\": 2}", "partial_rotary_factor"},
    {"llama", "{\"partial_rotary_factor\": 0}", "partial_rotary_factor"},
    {"llama", "{\"rope_parameters\": {\"rope_type\": \"spiral\"}}", "spiral"},
    {"llama", "{\"rope_parameters\": {\"rope_theta\": -1}}", "rope_theta"},
    {"llama", "{\"rope_parameters\": {\"rope_theta\": \"x\"}}", "rope_theta"},
    {"llama", "{\"rope_parameters\": {\"rope_type\": \"linear\", \"factor\": 0}}", "factor"},
    {"llama", "{\"rope_parameters\": {\"rope_type\": \"yarn\", \"factor\": 2, \"beta_slow\": 64}}",
     "beta_fast"},
    {"llama",
     "{\"rope_parameters\": {\"rope_type\": \"yarn\", \"factor\": 2,"
     " \"original_max_position_embeddings\": 0}}",
     "original context"},
    {"llama",
     "{\"rope_parameters\": {\"rope_type\": \"llama3\", \"factor\": 2, \"low_freq_factor\": 4,"
     " \"high_freq_factor\": 4}}",
     "high_freq_factor"},
    {"llama", "{\"rope_parameters\": {\"rope_type\": \"longrope\"}}", "short_factor"},
    {"llama",
     "{\"rope_parameters\": {\"rope_type\": \"longrope\","
     " \"short_factor\": [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,-16]}}",
     "short_factor[15]"},
    {"mixtral", "{\"num_experts_per_tok\": 99}", "num_experts_per_tok"},
    {"mixtral", "{\"num_local_experts\": 3}", "block_sparse_moe.gate"},
    {"gemma3", "{\"sliding_window\": null}", "sliding_window"},
    {"lfm2", "{\"conv_L_cache\": 1000}", "1000"},
    {"lfm2", "{\"conv_L_cache\": null}", "conv_L_cache"},
    {"bert", "{\"position_embedding_type\": \"relative_key\"}", "position_embedding_type"},
    {"bert", "{\"max_position_embeddings\": 600}", "positions"},
};

static void test_broken_configs(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        struct model *model = NULL;
        struct error err = {0};
        enum status status =
            model_open(model_folder(broken[i].fixture, broken[i].changes), &model, &err);
        model_close(model);
        if (status != STATUS_MODEL && status != STATUS_UNSUPPORTED)
            fail_msg("%s %s: %s (%s)", broken[i].fixture, broken[i].changes, status_name(status),
                     err.message);
        if (!strstr(err.message, broken[i].named))
            fail_msg("%s %s: does not name %s: %s", broken[i].fixture, broken[i].changes,
                     broken[i].named, err.message);
    }
    printf("%zu broken configs, each refused by name\n", sizeof broken / sizeof *broken);
}

/* ---- pooling ---------------------------------------------------------------------------------- */

struct pooled {
    const char *file, *text; /* NULL: no such file */
    enum model_pooling kind;
    const char *refused; /* part of the message */
};

#define TRANSFORMER                                                                                \
    "{\"idx\": 0, \"path\": \"\", \"type\": \"sentence_transformers.models.Transformer\"}"

static const struct pooled pooled[] = {
    {NULL, NULL, MODEL_POOLING_MEAN, NULL}, /* an encoder about which nothing is said */
    {"1_Pooling/config.json", "{\"pooling_mode_cls_token\": true}", MODEL_POOLING_FIRST, NULL},
    {"1_Pooling/config.json",
     "{\"pooling_mode_cls_token\": false, \"pooling_mode_mean_tokens\": true}", MODEL_POOLING_MEAN,
     NULL},
    {"1_Pooling/config.json", "{\"pooling_mode_lasttoken\": true}", MODEL_POOLING_LAST, NULL},
    {"1_Pooling/config.json", "{\"pooling_mode\": \"cls\"}", MODEL_POOLING_FIRST, NULL},
    {"1_Pooling/config.json", "{\"pooling_mode_max_tokens\": true}", MODEL_POOLING_NONE,
     "names no pooling"},
    {"modules.json", "[" TRANSFORMER ", {\"type\": \"x.models.Dense\", \"path\": \"2_Dense\"}]",
     MODEL_POOLING_NONE, "dense layer"},
    {"modules.json", "[" TRANSFORMER ", {\"type\": \"x.models.Pooling\", \"path\": \"../..\"}]",
     MODEL_POOLING_NONE, "no usable path"},
    {"modules.json", "[" TRANSFORMER "]", MODEL_POOLING_MEAN, NULL},
};

static void test_pooling(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof pooled / sizeof *pooled; i++) {
        struct model *model = NULL;
        struct error err = {0};
        const char *folder = model_folder("bert", "{}");
        if (pooled[i].file)
            model_folder_file(pooled[i].file, pooled[i].text);
        enum status status = model_open(folder, &model, &err);
        if (pooled[i].refused) {
            assert_int_not_equal(status, STATUS_OK);
            assert_non_null(strstr(err.message, pooled[i].refused));
            continue;
        }
        assert_ok(status, &err);
        assert_int_equal(model_pooling(model), pooled[i].kind);
        assert_true(model_program(model)->bidirectional);
        model_close(model);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_broken_configs),
        cmocka_unit_test(test_pooling),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Mixtures: the table of types, the rules by role and layer, rows that no block divides. */
#include <stdio.h>
#include <string.h>

#include "fixture.h"
#include "quant/mixture.h"

static enum tensor_type type_of(const char *mixture, const struct mixture_model *model,
                                const char *name, uint64_t cols)
{
    const uint64_t dims[] = {1024, cols};
    const struct mixture *m = mixture_from_name(str_from(mixture));
    assert_non_null(m);
    return mixture_type(m, model, str_from(name), 2, dims);
}

static void test_names(void **state)
{
    (void)state;
    struct error err = {0};
    assert_string_equal(mixture_name(mixture_from_name(STR_LIT("q4_k_m"))), "Q4_K_M");
    assert_string_equal(mixture_name(mixture_from_name(STR_LIT("bF16"))), "BF16");
    assert_null(mixture_from_name(STR_LIT("q4_k")));
    assert_null(mixture_from_name(STR_LIT("")));
    assert_int_equal(mixture_unknown("q9", &err), STATUS_USAGE);
    assert_non_null(strstr(err.message, "q9"));
    assert_non_null(strstr(err.message, "Q2_K, "));
    assert_non_null(strstr(err.message, ", F32)")); /* the list is whole */
    for (uint32_t i = 0; mixture_at(i); i++) {
        assert_ptr_equal(mixture_from_name(str_from(mixture_name(mixture_at(i)))), mixture_at(i));
        assert_true(strlen(mixture_about(mixture_at(i))) > 5);
    }
}

/* Q4_K_M over 16 layers: by hand from the rule "first and last eighth, every third between". */
static void test_more_bits(void **state)
{
    (void)state;
    const struct mixture_model model = {.n_layers = 16, .heads_per_kv = 4};
    const bool more[16] = {1, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 1, 1};
    for (uint32_t i = 0; i < 16; i++) {
        char name[64];
        snprintf(name, sizeof name, "blk.%u.ffn_down.weight", i);
        assert_int_equal(type_of("q4_k_m", &model, name, 8192),
                         more[i] ? TENSOR_Q6_K : TENSOR_Q4_K);
        snprintf(name, sizeof name, "blk.%u.attn_v.weight", i);
        assert_int_equal(type_of("q5_k_m", &model, name, 2048),
                         more[i] ? TENSOR_Q6_K : TENSOR_Q5_K);
        snprintf(name, sizeof name, "blk.%u.attn_q.weight", i);
        assert_int_equal(type_of("q4_k_m", &model, name, 2048), TENSOR_Q4_K);
    }
}

static void test_output(void **state)
{
    (void)state;
    struct mixture_model model = {.n_layers = 16, .heads_per_kv = 4};
    assert_int_equal(type_of("q4_k_m", &model, "output.weight", 2048), TENSOR_Q6_K);
    assert_int_equal(type_of("q4_k_m", &model, "token_embd.weight", 2048), TENSOR_Q4_K);
    model.tied = true;
    assert_int_equal(type_of("q4_k_m", &model, "token_embd.weight", 2048), TENSOR_Q6_K);
    assert_int_equal(type_of("q8_0", &model, "token_embd.weight", 2048), TENSOR_Q8_0);
    assert_int_equal(type_of("bf16", &model, "token_embd.weight", 2048), TENSOR_BF16);
}

static void test_roles(void **state)
{
    (void)state;
    struct mixture_model model = {.n_layers = 32, .heads_per_kv = 4};
    assert_int_equal(type_of("q2_k", &model, "blk.9.attn_v.weight", 1024), TENSOR_Q4_K);
    model.heads_per_kv = 1;
    assert_int_equal(type_of("q2_k", &model, "blk.9.attn_v.weight", 1024), TENSOR_Q3_K);
    assert_int_equal(type_of("q3_k_m", &model, "blk.1.ffn_down.weight", 1024), TENSOR_Q5_K);
    assert_int_equal(type_of("q3_k_m", &model, "blk.2.ffn_down.weight", 1024), TENSOR_Q4_K);
    assert_int_equal(type_of("q3_k_m", &model, "blk.7.ffn_down.weight", 1024), TENSOR_Q3_K);
    assert_int_equal(type_of("q4_k_s", &model, "blk.3.attn_v.weight", 1024), TENSOR_Q5_K);
    assert_int_equal(type_of("q4_k_s", &model, "blk.4.attn_v.weight", 1024), TENSOR_Q4_K);
    assert_int_equal(type_of("mxfp4_moe", &model, "blk.4.ffn_up_exps.weight", 1024), TENSOR_MXFP4);
    assert_int_equal(type_of("mxfp4_moe", &model, "blk.4.attn_q.weight", 1024), TENSOR_Q8_0);
    model.n_experts = 8;
    assert_int_equal(type_of("q4_k_m", &model, "blk.9.attn_k.weight", 1024), TENSOR_Q8_0);
    assert_int_equal(type_of("q4_k_m", &model, "blk.9.attn_output.weight", 1024), TENSOR_Q5_K);
    assert_int_equal(type_of("q4_0", &model, "blk.9.attn_k.weight", 1024), TENSOR_Q4_0);
}

static void test_rows(void **state)
{
    (void)state;
    const struct mixture_model model = {.n_layers = 16};
    assert_int_equal(type_of("q4_k_m", &model, "blk.9.attn_q.weight", 2880), TENSOR_Q5_0);
    assert_int_equal(type_of("q5_k_s", &model, "blk.9.attn_q.weight", 96), TENSOR_Q5_1);
    assert_int_equal(type_of("q6_k", &model, "blk.9.attn_q.weight", 96), TENSOR_Q8_0);
    assert_int_equal(type_of("iq4_xs", &model, "blk.9.attn_q.weight", 96), TENSOR_IQ4_NL);
    assert_int_equal(type_of("q4_0", &model, "blk.9.attn_q.weight", 80), TENSOR_F16);
    assert_int_equal(type_of("f32", &model, "blk.9.attn_q.weight", 7), TENSOR_F32);
}

static void test_kept(void **state)
{
    (void)state;
    const uint64_t matrix[] = {64, 256}, vector[] = {1, 256};
    assert_true(mixture_applies(STR_LIT("blk.0.attn_q.weight"), 2, matrix));
    assert_true(mixture_applies(STR_LIT("token_embd.weight"), 2, matrix));
    assert_false(mixture_applies(STR_LIT("blk.0.attn_q.bias"), 2, matrix));
    assert_false(mixture_applies(STR_LIT("blk.0.attn_norm.weight"), 1, matrix));
    assert_false(mixture_applies(STR_LIT("blk.0.attn_k_norm.weight"), 2, matrix));
    assert_false(mixture_applies(STR_LIT("blk.0.ffn_gate_inp.weight"), 2, matrix));
    assert_false(mixture_applies(STR_LIT("blk.0.attn_q.weight"), 2, vector));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),  cmocka_unit_test(test_more_bits),
        cmocka_unit_test(test_output), cmocka_unit_test(test_roles),
        cmocka_unit_test(test_rows),   cmocka_unit_test(test_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Which kernel sets this machine can run, best first. */
#include "backend/cpu/kernels.h"

/* Sets for instruction sets stand in front of the portable one, each guarded by what hw/ finds. */
static const struct kernel_set *const sets[] = {
#ifdef SLUICE_HAVE_AMX
    &kernel_set_amx,
#endif
#ifdef SLUICE_HAVE_AVX512_BF16
    &kernel_set_avx512_bf16,
#endif
#ifdef SLUICE_HAVE_AVX512
    &kernel_set_avx512,
#endif
#ifdef SLUICE_HAVE_AVX2
    &kernel_set_avx2,
#endif
    &kernel_set_portable,
};

#define N_SETS (sizeof sets / sizeof *sets)

/* Asking the processor traps in virtual machines, so the answer is kept: 0 unknown, 1 no, 2 yes. */
static bool usable(size_t s)
{
    static _Atomic int known[N_SETS];
    int answer = known[s];
    if (!answer) {
        bool yes = (!sets[s]->usable || sets[s]->usable()) &&
                   (!sets[s]->preferred || sets[s]->preferred());
        known[s] = answer = yes ? 2 : 1;
    }
    return answer == 2;
}

const struct weight_kernel *kernel_for_weights(enum tensor_type type)
{
    for (size_t s = 0; s < N_SETS; s++)
        for (uint32_t i = 0; i < sets[s]->n_weights && usable(s); i++)
            if (sets[s]->weights[i].type == type)
                return &sets[s]->weights[i];
    return NULL;
}

const struct packed_kernel *kernel_for_packed(enum tensor_type type)
{
    for (size_t s = 0; s < N_SETS; s++)
        for (uint32_t i = 0; i < sets[s]->n_packed && usable(s); i++)
            if (sets[s]->packed[i].type == type)
                return &sets[s]->packed[i];
    return NULL;
}

static const struct kernel_set *prompt_set; /* NULL: this machine's */

void kernels_set_prompt(const struct kernel_set *set)
{
    prompt_set = set;
}

const struct packed_kernel *kernel_for_prompt(enum tensor_type type)
{
    for (uint32_t i = 0; prompt_set && i < prompt_set->n_prompt; i++)
        if (prompt_set->prompt[i].type == type)
            return &prompt_set->prompt[i];
    for (size_t s = 0; s < N_SETS && !prompt_set; s++)
        for (uint32_t i = 0; i < sets[s]->n_prompt && usable(s); i++)
            if (sets[s]->prompt[i].type == type)
                return &sets[s]->prompt[i];
    return NULL;
}

const struct tile_attention *kernel_for_prompt_attention(void)
{
    if (prompt_set)
        return prompt_set->attention;
    for (size_t s = 0; s < N_SETS; s++)
        if (sets[s]->attention && usable(s))
            return sets[s]->attention;
    return NULL;
}

static bool has(const struct kernel_set *set, const struct packed_kernel *kernel)
{
    for (uint32_t i = 0; i < set->n_packed; i++)
        if (&set->packed[i] == kernel)
            return true;
    return false;
}

dots_two *kernel_for_two(const struct packed_kernel *kernel)
{
    for (size_t s = 0; s < N_SETS; s++)
        for (uint32_t i = 0; i < sets[s]->n_two; i++)
            if (sets[s]->two[i].type == kernel->type && has(sets[s], kernel))
                return sets[s]->two[i].dots;
    return NULL;
}

static dots_many *many_of(const struct kernel_set *set, const struct packed_kernel *kernel)
{
    for (uint32_t i = 0; i < set->n_prompt; i++)
        for (uint32_t k = 0; &set->prompt[i] == kernel && k < set->n_many; k++)
            if (set->many[k].type == kernel->type)
                return set->many[k].dots;
    return NULL;
}

dots_many *kernel_for_many(const struct packed_kernel *kernel)
{
    dots_many *dots = prompt_set ? many_of(prompt_set, kernel) : NULL;
    for (size_t s = 0; s < N_SETS && !dots; s++)
        dots = many_of(sets[s], kernel);
    return dots;
}

act_quantise *kernel_for_activations(void)
{
    for (size_t s = 0; s < N_SETS; s++)
        if (sets[s]->quantise && usable(s))
            return sets[s]->quantise;
    return act_quantise_scalar;
}

void kernels_rest(void)
{
    for (size_t s = 0; s < N_SETS; s++)
        if (sets[s]->rest && usable(s))
            sets[s]->rest();
}

const char *kernel_set_name(void)
{
    size_t s = 0;
    while (!usable(s))
        s++;
    return sets[s]->name;
}

const struct kernel_set *kernel_set_at(uint32_t index)
{
    return index < N_SETS ? sets[index] : NULL;
}

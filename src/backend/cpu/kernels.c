/* Which kernel sets this machine can run, best first. */
#include "backend/cpu/kernels.h"

/* Sets for instruction sets join here in front, each guarded by what hw/ found. */
static const struct kernel_set *const sets[] = {&kernel_set_portable};

#define N_SETS (sizeof sets / sizeof *sets)

const struct weight_kernel *kernel_for_weights(enum tensor_type type)
{
    for (size_t s = 0; s < N_SETS; s++)
        for (uint32_t i = 0; i < sets[s]->n_weights; i++)
            if (sets[s]->weights[i].type == type)
                return &sets[s]->weights[i];
    return NULL;
}

const struct kv_kernel *kernel_for_kv(enum tensor_type type)
{
    for (size_t s = 0; s < N_SETS; s++)
        for (uint32_t i = 0; i < sets[s]->n_kv; i++)
            if (sets[s]->kv[i].type == type)
                return &sets[s]->kv[i];
    return NULL;
}

const char *kernel_set_name(void)
{
    return sets[0]->name;
}

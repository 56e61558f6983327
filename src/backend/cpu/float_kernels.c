/* Which float kernels this machine can run, best first. */
#include "backend/cpu/float_kernels.h"

#include <stddef.h>

static const struct float_kernels *const sets[] = {
#ifdef SLUICE_HAVE_AVX512
    &float_kernels_avx512,
#endif
#ifdef SLUICE_HAVE_AVX2
    &float_kernels_avx2,
#endif
    &float_kernels_portable,
};

const struct float_kernels *float_kernels_at(uint32_t index)
{
    return index < sizeof sets / sizeof *sets ? sets[index] : NULL;
}

bool float_kernels_usable(const struct float_kernels *kernels, const struct hardware *hw)
{
    for (int i = 0; kernels->needs[i] != INSTRUCTION_SETS; i++)
        if (!hw->isa[kernels->needs[i]])
            return false;
    return true;
}

const struct float_kernels *float_kernels_best(void)
{
    struct hardware hw = {.n_cores = 0};
    hardware_read_instruction_sets(&hw);
    uint32_t i = 0;
    while (!float_kernels_usable(sets[i], &hw)) /* the last one always is */
        i++;
    return sets[i];
}

const struct kv_format *float_kernels_format(const struct float_kernels *kernels,
                                             enum tensor_type type)
{
    for (uint32_t i = 0; i < kernels->n_formats; i++)
        if (kernels->formats[i].type == type)
            return &kernels->formats[i];
    return NULL;
}

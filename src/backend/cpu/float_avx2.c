/* The float kernels of AVX2 with FMA and F16C. */
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__) && !defined(__AVX512F__)

#define SET      float_kernels_avx2
#define SET_NAME "avx2"
#define SET_NEEDS                                                                                  \
    {                                                                                              \
        ISA_AVX2, ISA_FMA, ISA_F16C, INSTRUCTION_SETS                                              \
    }

#include "backend/cpu/float_template.h"

#else
typedef int float_avx2_is_empty;
#endif

/* The float kernels of AVX-512. */
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)

#define SET      float_kernels_avx512
#define SET_NAME "avx512"
#define SET_NEEDS                                                                                  \
    {                                                                                              \
        ISA_AVX512F, ISA_AVX512BW, ISA_AVX512DQ, ISA_AVX512VL, INSTRUCTION_SETS                    \
    }

#include "backend/cpu/float_template.h"

#else
typedef int float_avx512_is_empty;
#endif

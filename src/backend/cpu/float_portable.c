/* The float kernels for any machine: 128-bit vectors of the compiler's own. */
#define SET      float_kernels_portable
#define SET_NAME "portable"
#define SET_NEEDS                                                                                  \
    {                                                                                              \
        INSTRUCTION_SETS                                                                           \
    }

#include "backend/cpu/float_template.h"

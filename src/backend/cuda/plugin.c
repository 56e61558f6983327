/* The one symbol that the registry looks for in sluice-cuda.so (BACKEND_PLUGIN_SYMBOL). */
#include "backend/cuda/cuda.h"

const struct backend_api *sluice_backend_plugin(void);

__attribute__((visibility("default"))) const struct backend_api *sluice_backend_plugin(void)
{
    return &cuda_backend_api;
}

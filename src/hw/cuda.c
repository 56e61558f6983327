/*
 * NVIDIA devices, asked of the driver itself. The few functions and numbers needed are declared by
 * hand (CUDA driver API, cuda.h), so that the program builds without CUDA and runs without a
 * driver. The library stays loaded: the driver does not like to be unloaded.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "hw/sources.h"

typedef int (*cu_init_fn)(unsigned flags);
typedef int (*cu_driver_get_version_fn)(int *version);
typedef int (*cu_device_get_count_fn)(int *count);
typedef int (*cu_device_get_fn)(int *device, int ordinal);
typedef int (*cu_device_get_name_fn)(char *name, int size, int device);
typedef int (*cu_device_total_mem_fn)(size_t *bytes, int device);
typedef int (*cu_device_get_attribute_fn)(int *value, int attribute, int device);

enum cu_attribute {
    CU_MULTIPROCESSOR_COUNT = 16,
    CU_PCI_BUS_ID = 33,
    CU_PCI_DEVICE_ID = 34,
    CU_L2_CACHE_SIZE = 38,
    CU_PCI_DOMAIN_ID = 50,
    CU_COMPUTE_MAJOR = 75,
    CU_COMPUTE_MINOR = 76,
};

#define CU_ERROR_NO_DEVICE 100

struct driver {
    cu_init_fn init;
    cu_driver_get_version_fn version;
    cu_device_get_count_fn count;
    cu_device_get_fn get;
    cu_device_get_name_fn name;
    cu_device_total_mem_fn total_mem;
    cu_device_get_attribute_fn attribute;
};

/* ISO C has no conversion from an object pointer to a function pointer; POSIX promises that the
 * representation is the same. */
static bool find(void *library, const char *name, void *function)
{
    void *symbol = dlsym(library, name);
    memcpy(function, &symbol, sizeof symbol);
    return symbol != NULL;
}

static bool load(const char *library_name, struct driver *cu)
{
    void *library = dlopen(library_name, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return false;
    bool complete =
        find(library, "cuInit", &cu->init) && find(library, "cuDriverGetVersion", &cu->version) &&
        find(library, "cuDeviceGetCount", &cu->count) && find(library, "cuDeviceGet", &cu->get) &&
        find(library, "cuDeviceGetName", &cu->name) &&
        find(library, "cuDeviceTotalMem_v2", &cu->total_mem) &&
        find(library, "cuDeviceGetAttribute", &cu->attribute);
    if (!complete)
        dlclose(library);
    return complete;
}

static uint32_t attribute(const struct driver *cu, int device, enum cu_attribute which)
{
    int value = 0;
    return cu->attribute(&value, (int)which, device) == 0 && value > 0 ? (uint32_t)value : 0;
}

/* The entry that hwloc made for this PCI address, or a new one; NULL when the list is full. */
static struct hardware_gpu *entry_at(struct hardware *hw, uint32_t domain, uint32_t bus,
                                     uint32_t device)
{
    for (uint32_t i = 0; i < hw->n_gpus; i++) {
        struct hardware_gpu *gpu = &hw->gpus[i];
        if (gpu->cuda_index < 0 && gpu->pci_domain == domain && gpu->pci_bus == bus &&
            gpu->pci_device == device)
            return gpu;
    }
    if (hw->n_gpus == HARDWARE_GPUS_MAX)
        return NULL;
    struct hardware_gpu *gpu = &hw->gpus[hw->n_gpus++];
    *gpu = (struct hardware_gpu){.pci_domain = domain, .pci_bus = bus, .pci_device = device};
    return gpu;
}

static void read_device(struct hardware *hw, const struct driver *cu, int ordinal)
{
    int device;
    if (cu->get(&device, ordinal) != 0)
        return;
    struct hardware_gpu *gpu =
        entry_at(hw, attribute(cu, device, CU_PCI_DOMAIN_ID), attribute(cu, device, CU_PCI_BUS_ID),
                 attribute(cu, device, CU_PCI_DEVICE_ID));
    if (!gpu)
        return;
    gpu->cuda_index = ordinal;
    gpu->compute_major = attribute(cu, device, CU_COMPUTE_MAJOR);
    gpu->compute_minor = attribute(cu, device, CU_COMPUTE_MINOR);
    gpu->n_multiprocessors = attribute(cu, device, CU_MULTIPROCESSOR_COUNT);
    gpu->l2_bytes = attribute(cu, device, CU_L2_CACHE_SIZE);
    char name[sizeof gpu->name] = "";
    if (cu->name(name, (int)sizeof name - 1, device) == 0 && name[0])
        memcpy(gpu->name, name, sizeof name);
    size_t bytes = 0;
    if (cu->total_mem(&bytes, device) == 0)
        gpu->memory_bytes = bytes;
}

void hardware_read_cuda(struct hardware *hw, const char *library)
{
    struct driver cu;
    if (!load(library, &cu))
        return;
    int version = 0, count = 0;
    int result = cu.init(0);
    if (result == 0)
        result = cu.count(&count);
    if (result != 0 && result != CU_ERROR_NO_DEVICE) {
        snprintf(hw->cuda_problem, sizeof hw->cuda_problem,
                 "the CUDA driver is installed but does not start (error %d)", result);
        return;
    }
    hw->cuda_driver = true;
    if (cu.version(&version) == 0 && version > 0)
        hw->cuda_version = (uint32_t)version;
    for (int i = 0; i < count; i++)
        read_device(hw, &cu, i);
}

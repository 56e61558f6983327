/*
 * Detection: the topology by hwloc, then the other sources (sources.h) in an order that lets the
 * later ones complete what the earlier ones found.
 */
#include "hw/hardware.h"

#include <hwloc.h>
#include <stdio.h>
#include <string.h>

#include "hw/sources.h"

#define PCI_CLASS_DISPLAY     0x03
#define PCI_CLASS_ACCELERATOR 0x12

static uint32_t count_objects(hwloc_topology_t topology, hwloc_obj_type_t type)
{
    int n = hwloc_get_nbobjs_by_type(topology, type);
    return n > 0 ? (uint32_t)n : 0;
}

static uint64_t largest_cache(hwloc_topology_t topology, hwloc_obj_type_t type)
{
    uint64_t largest = 0;
    hwloc_obj_t cache = NULL;
    while ((cache = hwloc_get_next_obj_by_type(topology, type, cache)))
        largest = cache->attr->cache.size > largest ? cache->attr->cache.size : largest;
    return largest;
}

/* hwloc also ranks kinds by clock rate alone, where virtual machines and favoured cores make false
 * differences; only these properties tell a smaller core design. */
static bool tells_core_design(const struct hwloc_info_s *infos, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (strcmp(infos[i].name, "CoreType") == 0 || strcmp(infos[i].name, "LinuxCapacity") == 0 ||
            strcmp(infos[i].name, "DarwinCompatible") == 0)
            return true;
    return false;
}

static bool is_efficiency_core(hwloc_topology_t topology, hwloc_obj_t core, int n_kinds)
{
    unsigned n_infos = 0;
    struct hwloc_info_s *infos = NULL;
    int efficiency = -1;
    if (n_kinds < 2)
        return false;
    int kind = hwloc_cpukinds_get_by_cpuset(topology, core->cpuset, 0);
    /* Kinds are ordered: the last is the most powerful. */
    return kind >= 0 && kind < n_kinds - 1 &&
           hwloc_cpukinds_get_info(topology, (unsigned)kind, NULL, &efficiency, &n_infos, &infos,
                                   0) == 0 &&
           efficiency >= 0 && tells_core_design(infos, n_infos);
}

static void read_processors(struct hardware *hw, hwloc_topology_t topology, hwloc_bitmap_t usable)
{
    hw->n_packages = count_objects(topology, HWLOC_OBJ_PACKAGE);
    hw->n_cores = count_objects(topology, HWLOC_OBJ_CORE);
    hw->n_threads = count_objects(topology, HWLOC_OBJ_PU);
    hw->n_numa_nodes = count_objects(topology, HWLOC_OBJ_NUMANODE);
    int bound = hwloc_bitmap_weight(usable);
    hw->n_usable_threads = bound > 0 ? (uint32_t)bound : hw->n_threads;

    int n_kinds = hwloc_cpukinds_get_nr(topology, 0);
    hwloc_obj_t core = NULL;
    while ((core = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_CORE, core))) {
        bool efficiency = is_efficiency_core(topology, core, n_kinds);
        bool mine = bound <= 0 || hwloc_bitmap_intersects(core->cpuset, usable);
        hw->n_efficiency_cores += efficiency;
        hw->n_usable_cores += mine;
        hw->n_usable_efficiency_cores += mine && efficiency;
    }
    if (hw->n_cores == 0) { /* the system does not say which threads share a core */
        hw->n_cores = hw->n_threads;
        hw->n_usable_cores = hw->n_usable_threads;
    }
    hw->l1d_bytes = largest_cache(topology, HWLOC_OBJ_L1CACHE);
    hw->l2_bytes = largest_cache(topology, HWLOC_OBJ_L2CACHE);
    hw->l3_bytes = largest_cache(topology, HWLOC_OBJ_L3CACHE);
    hw->n_l3 = count_objects(topology, HWLOC_OBJ_L3CACHE);
}

static void read_pci_gpus(struct hardware *hw, hwloc_topology_t topology)
{
    hwloc_obj_t pci = NULL;
    while ((pci = hwloc_get_next_pcidev(topology, pci)) && hw->n_gpus < HARDWARE_GPUS_MAX) {
        const struct hwloc_pcidev_attr_s *attr = &pci->attr->pcidev;
        unsigned class = attr->class_id >> 8;
        if (class != PCI_CLASS_DISPLAY && class != PCI_CLASS_ACCELERATOR)
            continue;
        struct hardware_gpu *gpu = &hw->gpus[hw->n_gpus++];
        *gpu = (struct hardware_gpu){
            .pci_domain = attr->domain,
            .pci_bus = attr->bus,
            .pci_device = attr->dev,
            .vendor_id = attr->vendor_id,
            .device_id = attr->device_id,
            .cuda_index = -1,
        };
        const char *vendor = hwloc_obj_get_info_by_name(pci, "PCIVendor");
        const char *device = hwloc_obj_get_info_by_name(pci, "PCIDevice");
        if (vendor || device)
            snprintf(gpu->name, sizeof gpu->name, "%s%s%s", vendor ? vendor : "",
                     vendor && device ? " " : "", device ? device : "");
    }
}

static enum status load_topology(hwloc_topology_t *out, struct error *err)
{
    /* These plugins start whole drivers to find what the PCI list and CUDA tell us anyway. */
    static const char *const unwanted[] = {"cuda", "nvml", "opencl", "gl", "rsmi", "levelzero"};
    if (hwloc_topology_init(out) != 0)
        return error_set(err, STATUS_MEMORY, "no memory to read the hardware topology");
    for (size_t i = 0; i < sizeof unwanted / sizeof *unwanted; i++)
        hwloc_topology_set_components(*out, HWLOC_TOPOLOGY_COMPONENTS_FLAG_BLACKLIST, unwanted[i]);
    hwloc_topology_set_io_types_filter(*out, HWLOC_TYPE_FILTER_KEEP_IMPORTANT);
    hwloc_topology_set_flags(*out, HWLOC_TOPOLOGY_FLAG_INCLUDE_DISALLOWED);
    if (hwloc_topology_load(*out) != 0) {
        hwloc_topology_destroy(*out);
        return error_set(err, STATUS_INTERNAL, "hwloc cannot read the hardware topology");
    }
    return STATUS_OK;
}

enum status hardware_detect_host(struct hardware *out, struct error *err)
{
    *out = (struct hardware){0};
    hwloc_topology_t topology;
    enum status status = load_topology(&topology, err);
    if (status != STATUS_OK)
        return status;
    hwloc_bitmap_t usable = hwloc_bitmap_alloc();
    if (!usable) {
        hwloc_topology_destroy(topology);
        return error_set(err, STATUS_MEMORY, "no memory to read the hardware topology");
    }
    if (hwloc_get_cpubind(topology, usable, HWLOC_CPUBIND_THREAD) != 0)
        hwloc_bitmap_copy(usable, hwloc_topology_get_topology_cpuset(topology));
    hwloc_bitmap_and(usable, usable, hwloc_topology_get_allowed_cpuset(topology));
    read_processors(out, topology, usable);
    read_pci_gpus(out, topology);
    hardware_read_instruction_sets(out);
    if (!out->cpu_model[0]) {
        const char *model = hwloc_obj_get_info_by_name(hwloc_get_root_obj(topology), "CPUModel");
        hwloc_obj_t package = hwloc_get_obj_by_type(topology, HWLOC_OBJ_PACKAGE, 0);
        if (!model && package)
            model = hwloc_obj_get_info_by_name(package, "CPUModel");
        snprintf(out->cpu_model, sizeof out->cpu_model, "%s", model ? model : "");
    }
    hwloc_bitmap_free(usable);
    hwloc_topology_destroy(topology);
    hardware_read_limits(out, "");
    return STATUS_OK;
}

enum status hardware_detect(struct hardware *out, struct error *err)
{
    enum status status = hardware_detect_host(out, err);
    if (status == STATUS_OK)
        hardware_read_cuda(out, "libcuda.so.1");
    return status;
}

uint32_t hardware_default_threads(const struct hardware *hw)
{
    uint32_t n = hw->n_usable_cores - hw->n_usable_efficiency_cores;
    if (n == 0)
        n = hw->n_usable_cores;
    /* Rounded down: a thread that the quota stops holds up all others at the next barrier. */
    if (hw->cpu_quota > 0 && hw->cpu_quota < n)
        n = (uint32_t)hw->cpu_quota;
    return n ? n : 1;
}

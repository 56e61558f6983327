/* What was found, for people and as JSON. */
#include <stdio.h>
#include <string.h>

#include "hw/hardware.h"

#define LABEL "%-9s"

/* "32 MiB", "1.5 GiB": exact where it is whole, else one decimal. */
static void append_bytes(struct buf *out, uint64_t bytes)
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    unsigned unit = 0;
    for (; value >= 1024 && unit < 4; unit++)
        value /= 1024;
    bool whole = value == (double)(uint64_t)value;
    buf_printf(out, "%.*f %s", whole ? 0 : 1, value, units[unit]);
}

static void append_count(struct buf *out, uint32_t n, const char *noun)
{
    buf_printf(out, "%u %s%s", n, noun, n == 1 ? "" : "s");
}

static void describe_processor(const struct hardware *hw, struct buf *out)
{
    buf_printf(out, LABEL "%s (%s)\n", "cpu",
               hw->cpu_model[0] ? hw->cpu_model : "unnamed processor", hw->architecture);
    buf_printf(out, LABEL, "cores");
    append_count(out, hw->n_cores, "core");
    if (hw->n_efficiency_cores)
        buf_printf(out, " (%u of them efficiency cores)", hw->n_efficiency_cores);
    buf_append_cstr(out, ", ");
    append_count(out, hw->n_threads, "thread");
    if (hw->n_packages) {
        buf_append_cstr(out, ", ");
        append_count(out, hw->n_packages, "package");
    }
    if (hw->n_numa_nodes > 1)
        buf_printf(out, ", %u NUMA nodes", hw->n_numa_nodes);
    if (hw->n_usable_threads < hw->n_threads)
        buf_printf(out, "; this process may use %u threads on %u cores", hw->n_usable_threads,
                   hw->n_usable_cores);
    if (hw->cpu_quota > 0)
        buf_printf(out, "; limited to the time of %.4g processors", hw->cpu_quota);
    buf_append_char(out, '\n');
}

static void describe_caches(const struct hardware *hw, struct buf *out)
{
    const uint64_t sizes[3] = {hw->l1d_bytes, hw->l2_bytes, hw->l3_bytes};
    static const char *const names[3] = {"L1d", "L2", "L3"};
    const char *separator = "";
    if (!sizes[0] && !sizes[1] && !sizes[2])
        return;
    buf_printf(out, LABEL, "caches");
    for (int i = 0; i < 3; i++) {
        if (!sizes[i])
            continue;
        buf_printf(out, "%s%s ", separator, names[i]);
        append_bytes(out, sizes[i]);
        separator = ", ";
    }
    if (hw->n_l3 > 1)
        buf_printf(out, " (%u of them)", hw->n_l3);
    buf_append_char(out, '\n');
}

static void describe_memory(const struct hardware *hw, struct buf *out)
{
    buf_printf(out, LABEL, "memory");
    append_bytes(out, hw->memory_total);
    if (hw->memory_available) {
        buf_append_cstr(out, ", ");
        append_bytes(out, hw->memory_available);
        buf_append_cstr(out, " available");
    }
    if (hw->memory_limit) {
        buf_append_cstr(out, "; limited to ");
        append_bytes(out, hw->memory_limit);
    }
    buf_append_char(out, '\n');
}

static void describe_gpu(const struct hardware_gpu *gpu, struct buf *out)
{
    buf_printf(out, LABEL "%s", "gpu", gpu->name[0] ? gpu->name : "unnamed device");
    if (gpu->cuda_index >= 0) {
        buf_append_cstr(out, ", ");
        append_bytes(out, gpu->memory_bytes);
        buf_printf(out, ", CUDA device %d, compute capability %u.%u, %u multiprocessors",
                   gpu->cuda_index, gpu->compute_major, gpu->compute_minor, gpu->n_multiprocessors);
    } else {
        buf_append_cstr(out, ", no CUDA driver for it");
    }
    buf_printf(out, ", PCI %04x:%02x:%02x\n", gpu->pci_domain, gpu->pci_bus, gpu->pci_device);
}

void hardware_describe(const struct hardware *hw, struct buf *out)
{
    describe_processor(hw, out);
    describe_caches(hw, out);
    buf_printf(out, LABEL, "vectors");
    const char *separator = "";
    for (int i = 0; i < INSTRUCTION_SETS; i++)
        if (hw->isa[i]) {
            buf_printf(out, "%s%s", separator, instruction_set_name((enum instruction_set)i));
            separator = " ";
        }
    buf_append_cstr(out, *separator ? "\n" : "none known\n");
    describe_memory(hw, out);
    for (uint32_t i = 0; i < hw->n_gpus; i++)
        describe_gpu(&hw->gpus[i], out);
    if (hw->n_gpus == 0)
        buf_printf(out, LABEL "none\n", "gpu");
    if (hw->cuda_problem[0])
        buf_printf(out, LABEL "%s\n", "", hw->cuda_problem);
}

static void put_number(json_t *object, const char *key, uint64_t value)
{
    if (value)
        json_object_set_new(object, key, json_integer((json_int_t)value));
}

static void put_text(json_t *object, const char *key, const char *value)
{
    if (value[0]) /* names that are not UTF-8 give NULL and are left out */
        json_object_set_new(object, key, json_string(value));
}

static json_t *gpu_to_json(const struct hardware_gpu *gpu)
{
    json_t *object = json_object();
    char address[32], id[16];
    snprintf(address, sizeof address, "%04x:%02x:%02x", gpu->pci_domain, gpu->pci_bus,
             gpu->pci_device);
    put_text(object, "name", gpu->name);
    put_text(object, "pci_address", address);
    if (gpu->vendor_id) {
        snprintf(id, sizeof id, "%04x:%04x", gpu->vendor_id, gpu->device_id);
        put_text(object, "pci_id", id);
    }
    if (gpu->cuda_index >= 0) {
        char capability[24];
        snprintf(capability, sizeof capability, "%u.%u", gpu->compute_major, gpu->compute_minor);
        json_object_set_new(object, "cuda_index", json_integer(gpu->cuda_index));
        put_text(object, "compute_capability", capability);
        put_number(object, "multiprocessors", gpu->n_multiprocessors);
        put_number(object, "memory_bytes", gpu->memory_bytes);
        put_number(object, "l2_bytes", gpu->l2_bytes);
    }
    return object;
}

static json_t *processor_to_json(const struct hardware *hw)
{
    json_t *cpu = json_object();
    put_text(cpu, "model", hw->cpu_model);
    put_text(cpu, "vendor", hw->cpu_vendor);
    put_text(cpu, "architecture", hw->architecture);
    put_number(cpu, "packages", hw->n_packages);
    put_number(cpu, "cores", hw->n_cores);
    put_number(cpu, "efficiency_cores", hw->n_efficiency_cores);
    put_number(cpu, "threads", hw->n_threads);
    put_number(cpu, "numa_nodes", hw->n_numa_nodes);
    put_number(cpu, "usable_threads", hw->n_usable_threads);
    put_number(cpu, "usable_cores", hw->n_usable_cores);
    if (hw->cpu_quota > 0)
        json_object_set_new(cpu, "quota", json_real(hw->cpu_quota));
    put_number(cpu, "default_threads", hardware_default_threads(hw));
    put_number(cpu, "l1d_bytes", hw->l1d_bytes);
    put_number(cpu, "l2_bytes", hw->l2_bytes);
    put_number(cpu, "l3_bytes", hw->l3_bytes);
    put_number(cpu, "l3_caches", hw->n_l3);
    json_t *sets = json_array();
    for (int i = 0; i < INSTRUCTION_SETS; i++)
        if (hw->isa[i])
            json_array_append_new(sets, json_string(instruction_set_name((enum instruction_set)i)));
    json_object_set_new(cpu, "instruction_sets", sets);
    return cpu;
}

json_t *hardware_to_json(const struct hardware *hw)
{
    json_t *root = json_object(), *memory = json_object(), *gpus = json_array();
    put_number(memory, "total_bytes", hw->memory_total);
    put_number(memory, "available_bytes", hw->memory_available);
    put_number(memory, "limit_bytes", hw->memory_limit);
    for (uint32_t i = 0; i < hw->n_gpus; i++)
        json_array_append_new(gpus, gpu_to_json(&hw->gpus[i]));
    json_object_set_new(root, "cpu", processor_to_json(hw));
    json_object_set_new(root, "memory", memory);
    json_object_set_new(root, "gpus", gpus);
    if (hw->cuda_driver) {
        json_t *cuda = json_object();
        put_number(cuda, "driver_version", hw->cuda_version);
        json_object_set_new(root, "cuda", cuda);
    }
    put_text(root, "cuda_problem", hw->cuda_problem);
    return root;
}

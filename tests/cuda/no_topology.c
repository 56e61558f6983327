/*
 * In place of hw/hardware.c, whose hwloc a bare GPU machine does not have: this program opens the CPU
 * backend only to test its own tests, and one thread per processor will do there.
 */
#include "hw/hardware.h"

enum status hardware_detect_host(struct hardware *out, struct error *err)
{
    (void)out;
    return error_set(err, STATUS_UNSUPPORTED, "the topology is not read in this program");
}

uint32_t hardware_default_threads(const struct hardware *hw)
{
    (void)hw;
    return 1;
}

/*
 * Energy, where the system tells: Linux counts microjoules of each processor package under
 * /sys/class/powercap (Intel's and AMD's counters; virtual machines and ordinary users usually do
 * not see them).
 */
#include <inttypes.h>
#include <stdio.h>

#include "hw/hardware.h"

#define PACKAGES_MAX 16

bool hardware_energy(double *joules)
{
    bool found = false;
    *joules = 0;
    for (int package = 0; package < PACKAGES_MAX; package++) {
        char path[96];
        uint64_t microjoules;
        snprintf(path, sizeof path, "/sys/class/powercap/intel-rapl:%d/energy_uj", package);
        FILE *file = fopen(path, "r");
        if (!file)
            break;
        if (fscanf(file, "%" SCNu64, &microjoules) == 1) {
            *joules += (double)microjoules * 1e-6;
            found = true;
        }
        fclose(file);
    }
    return found;
}

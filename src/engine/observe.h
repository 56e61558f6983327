/* Watching an engine's model at work, for calibration. For what is built beside the engine (convert/). */
#ifndef SLUICE_ENGINE_OBSERVE_H
#define SLUICE_ENGINE_OBSERVE_H

#include "backend/observe.h"
#include "base/status.h"
#include "sluice.h"

/* Set while no request runs; called on the engine's thread during steps. NULL: no more.
 * STATUS_UNSUPPORTED where the backend cannot. The observer stays the caller's. */
enum status engine_observe(sluice_engine *engine, const struct op_observer *observer,
                           struct error *err);
/* Whose weights the observer is told of. */
const struct program *engine_program(const sluice_engine *engine);

#endif

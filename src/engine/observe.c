#include "engine/observe.h"

#include "engine/internal.h"

enum status engine_observe(sluice_engine *engine, const struct op_observer *observer,
                           struct error *err)
{
    if (!engine->api->observe)
        return error_set(err, STATUS_UNSUPPORTED, "backend %s cannot be observed: use cpu",
                         engine->api->name);
    return engine->api->observe(engine->backend, engine->loaded, observer, err);
}

const struct program *engine_program(const sluice_engine *engine)
{
    return engine->source.program;
}

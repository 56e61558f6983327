/*
 * The table of backends compiled in; backend_find() and backend_at() are declared in backend.h.
 * This pair of files is the only code that names an implementation.
 */
#ifndef SLUICE_BACKEND_REGISTRY_H
#define SLUICE_BACKEND_REGISTRY_H

#include "backend/backend.h"

/* The one symbol a plugin exports (sluice-NAME.so beside the program or in ../lib/sluice). */
#define BACKEND_PLUGIN_SYMBOL "sluice_backend_plugin"
typedef const struct backend_api *(*backend_plugin_fn)(void);

#endif

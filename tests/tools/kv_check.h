/*
 * The invariants of kv/, for tests that walk it: every page is unused, kept or counted exactly as often
 * as tables and blocks name it, and what blocks name of a page is all there.
 */
#ifndef SLUICE_TESTS_KV_CHECK_H
#define SLUICE_TESTS_KV_CHECK_H

#include "kv/kv.h"

/* False and a message on the first violation. */
bool kv_check(const struct kv *kv, struct error *err);

#endif

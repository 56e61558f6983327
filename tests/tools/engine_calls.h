/*
 * Calls of the public interface that a test cannot go on without: what fails, fails the test with the
 * engine's own message. For tests that link the engine.
 */
#ifndef SLUICE_TESTS_ENGINE_CALLS_H
#define SLUICE_TESTS_ENGINE_CALLS_H

#include "base/str.h"
#include "sluice.h"

sluice_engine *must_open(const sluice_engine_options *options);
sluice_request *must_submit(sluice_engine *engine, const sluice_request_options *options);
/* All rows of a scoring request, one after the other, as floats; the caller releases the buffer. */
struct buf must_score(sluice_engine *engine, const sluice_request_options *options);

/* Length of the difference by the length of `expected`, n values each. */
double relative_error(const float *got, const float *expected, size_t n);

#endif

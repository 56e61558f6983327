/*
 * What every test program shares: where data lives, and how a test skips.
 *
 * Committed fixtures are under tests/data and models/; larger public data is in a folder named by
 * SLUICE_SHARED, by default "../shared" beside the checkout. A test that needs the latter calls
 * fixture_shared() and skips with the printed reason where it is absent.
 */
#ifndef SLUICE_TESTS_FIXTURE_H
#define SLUICE_TESTS_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/status.h"
#include "base/str.h"

/* Whether a sanitizer watches, which makes everything slow (5 to 30 times) and larger. */
#if defined(__SANITIZE_THREAD__)
#define SANITIZED_THREADS 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SANITIZED_THREADS 1
#endif
#endif
#ifndef SANITIZED_THREADS
#define SANITIZED_THREADS 0
#endif
#if SANITIZED_THREADS || defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

/* Absolute path of a committed file, relative to the checkout's root. Static storage: the result
 * is valid until the eighth further call. */
const char *fixture_path(const char *relative);
/* Path below the shared data folder ("data/quant/index.json"), or NULL after printing that it is
 * absent (the caller then calls skip()). Same storage rule. */
const char *fixture_shared(const char *relative);
/* Reads a whole file or fails the test. The caller releases the buffer. */
struct buf fixture_read(const char *path);
/* A fresh directory for this test program's scratch files (under the build folder). */
const char *fixture_scratch(void);
/* Path of a file in it. Same storage rule as fixture_path(). */
const char *fixture_scratch_file(const char *name);
/* Removes a folder and the files in it, if it is there; for large scratch files. */
void fixture_remove_folder(const char *path);
/* Skips the test where this process may have fewer files open at once. */
void fixture_need_files(unsigned n);
/* Asserts STATUS_OK, printing the error message otherwise. */
void assert_ok_(enum status status, const struct error *err, const char *file, int line);
#define assert_ok(status, err) assert_ok_((status), (err), __FILE__, __LINE__)

#endif

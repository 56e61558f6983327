/*
 * What tests write: whole files, and a folder of its own for each test. Where they lie is fixture.h's
 * scratch folder.
 */
#ifndef SLUICE_TESTS_SCRATCH_H
#define SLUICE_TESTS_SCRATCH_H

#include <stddef.h>

/* Writes a whole file or fails the test. */
void scratch_write(const char *path, const void *data, size_t n);
void scratch_write_text(const char *path, const char *text);

/* Path of a folder that no test had before and that is not there yet; the test may make it. It goes
 * with its files when the test ends. Only in tests listed by scratch_folder_test(). */
const char *scratch_folder(void);
int scratch_folder_begin(void **state);
int scratch_folder_end(void **state);
#define scratch_folder_test(test)                                                                  \
    cmocka_unit_test_setup_teardown(test, scratch_folder_begin, scratch_folder_end)

#endif

#include "scratch.h"

#include <stdio.h>
#include <string.h>

#include "fixture.h"

static char folder[1200];

void scratch_write(const char *path, const void *data, size_t n)
{
    FILE *file = fopen(path, "wb");
    if (!file)
        fail_msg("%s cannot be written", path);
    assert_int_equal(fwrite(data, 1, n, file), n);
    assert_int_equal(fclose(file), 0);
}

void scratch_write_text(const char *path, const char *text)
{
    scratch_write(path, text, strlen(text));
}

const char *scratch_folder(void)
{
    assert_true(folder[0] != 0);
    return folder;
}

int scratch_folder_begin(void **state)
{
    (void)state;
    static int n;
    snprintf(folder, sizeof folder, "%s/folder-%d", fixture_scratch(), n++);
    return 0;
}

int scratch_folder_end(void **state)
{
    (void)state;
    fixture_remove_folder(folder);
    folder[0] = 0;
    return 0;
}

/*
 * Which module may know which: reads the #include lines of every source file and fails on any edge
 * that goes up or sideways. The ranks are the architecture (docs/architecture.md); this table is
 * where they are enforced, so that a wrong direction is a failing test and not a review comment.
 *
 * A line counts even inside #if or a comment: an edge that exists on one platform only is still an
 * edge. <name.h> counts like "name.h" when it names a file of ours, since -Isrc makes both work.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "fixture.h"

enum { RANK_SHARED_BACKEND = 3, RANK_IMPLEMENTATION = 4, RANK_ENGINE = 5 };

static const struct {
    const char *name;
    int rank;
} modules[] = {
    {"base", 0},   {"hw", 1},     {"quant", 1},    {"text", 1},
    {"kv", 1},     {"format", 2}, {"program", 2},  {"sched", 2},
    {"store", 2},  {"sample", 2}, {"model", 4},    {"engine", RANK_ENGINE},
    {"models", 6}, {"api", 6},    {"convert", 6},  {"server", 7},
    {"bench", 7},  {"cli", 8},    {"backend", -1}, /* by path: see unit_of() */
};

/* What a module must not see although its rank would allow it. `prefix` is of the included path. */
static const struct {
    const char *from, *prefix, *why;
} forbidden[] = {
    {"sched", "quant/", "the scheduler never sees a tensor"},
    {"sched", "text/", "the scheduler works on integers only"},
    {"sched", "hw/", "the scheduler works on integers only"},
    {"engine", "base/json.h", "the engine never sees JSON"},
    {"engine", "jansson.h", "the engine never sees JSON"},
    {"engine", "sys/socket.h", "the engine never sees a socket"},
};

/* A place in the layering. name is "base", "backend" (shared), "backend/cpu", ...; rank < 0 means
 * that the path belongs to no known module. */
struct unit {
    char name[64];
    int rank;
};

struct report {
    unsigned files, edges, violations;
    bool quiet;      /* violations are counted, not printed: the negative tests */
    struct buf last; /* the latest one in words */
};

static struct unit unit_of(const char *path)
{
    struct unit unit = {.rank = -1};
    const char *slash = strchr(path, '/');
    if (!slash)
        return unit;
    const char *second = strchr(slash + 1, '/');
    bool backend = strncmp(path, "backend/", 8) == 0;
    size_t len = (size_t)((backend && second ? second : slash) - path);
    if (len >= sizeof unit.name)
        return unit;
    memcpy(unit.name, path, len);
    if (backend) {
        unit.rank = second ? RANK_IMPLEMENTATION : RANK_SHARED_BACKEND;
        return unit;
    }
    for (size_t i = 0; i < sizeof modules / sizeof *modules; i++)
        if (strcmp(unit.name, modules[i].name) == 0)
            unit.rank = modules[i].rank;
    return unit;
}

static bool is_registry(const char *path)
{
    return strncmp(path, "backend/registry.", 17) == 0;
}

static const char *forbidden_by_name(const char *from_module, const char *to)
{
    for (size_t i = 0; i < sizeof forbidden / sizeof *forbidden; i++)
        if (strcmp(from_module, forbidden[i].from) == 0 &&
            strncmp(to, forbidden[i].prefix, strlen(forbidden[i].prefix)) == 0)
            return forbidden[i].why;
    return NULL;
}

/* The rule. Paths are relative to src/ ("text/span.h"); the public header is "sluice.h". Returns
 * NULL where `from` may include `to`, otherwise the reason why not. */
static const char *edge_problem(const char *from, const char *to)
{
    if (strcmp(from, "sluice.h") == 0)
        return "the public header includes libc only";
    struct unit a = unit_of(from), b = unit_of(to);
    if (a.rank < 0)
        return "the file's folder is no module of the rank table";
    if (strcmp(to, "sluice.h") == 0)
        return a.rank >= RANK_ENGINE ? NULL : "sluice.h is for the engine and what is above it";
    if (b.rank < 0)
        return "the included file's folder is no module of the rank table";
    if (strcmp(a.name, b.name) == 0)
        return NULL;
    if (b.rank == RANK_IMPLEMENTATION && strncmp(b.name, "backend/", 8) == 0)
        return is_registry(from) ? NULL : "only the registry names a backend implementation";
    if (b.rank > a.rank)
        return "upwards";
    if (b.rank == a.rank)
        return "sideways: modules of equal rank do not know each other";
    return forbidden_by_name(a.name, to);
}

static void violation(struct report *report, const char *from, int line, const char *to,
                      const char *why)
{
    report->violations++;
    buf_clear(&report->last);
    buf_printf(&report->last, "%s:%d includes \"%s\": %s", from, line, to, why);
    if (!report->quiet)
        print_error("%s\n", report->last.data);
}

/* Finds what an include means: beside the including file, in src/, or in include/. Writes the path
 * relative to src/ ("sluice.h" for the public header); false where it is no file of ours. */
static bool resolve(const char *root, const char *from, const char *name, bool quoted, char *out,
                    size_t size)
{
    char path[2048];
    const char *slash = strrchr(from, '/');
    int folder = slash ? (int)(slash + 1 - from) : 0;
    if (quoted && folder > 0) {
        snprintf(path, sizeof path, "%s/src/%.*s%s", root, folder, from, name);
        if (file_exists(path)) {
            snprintf(out, size, "%.*s%s", folder, from, name);
            return true;
        }
    }
    snprintf(out, size, "%s", name);
    snprintf(path, sizeof path, "%s/src/%s", root, name);
    if (file_exists(path))
        return true;
    snprintf(path, sizeof path, "%s/include/%s", root, name);
    return file_exists(path);
}

/* The name in an #include line, NUL-terminated in `name`; false for any other line. */
static bool parse_include(const char *line, char *name, size_t size, bool *quoted)
{
    line += strspn(line, " \t");
    if (*line++ != '#')
        return false;
    line += strspn(line, " \t");
    if (strncmp(line, "include", 7) != 0)
        return false;
    line += 7;
    line += strspn(line, " \t");
    char close = *line == '"' ? '"' : *line == '<' ? '>' : 0;
    *quoted = close == '"';
    size_t len = close ? strcspn(line + 1, close == '"' ? "\"\n" : ">\n") : 0;
    if (len >= size)
        len = size - 1;
    memcpy(name, close ? line + 1 : line, len);
    name[len] = 0;
    return true;
}

static void check_line(const char *root, const char *from, int number, const char *line,
                       struct report *report)
{
    char name[512], to[1024];
    bool quoted;
    if (!parse_include(line, name, sizeof name, &quoted))
        return;
    if (!name[0]) {
        violation(report, from, number, line, "a computed include cannot be checked");
        return;
    }
    if (strstr(name, "..")) {
        violation(report, from, number, name, "write paths from src/, without \"..\"");
        return;
    }
    if (!resolve(root, from, name, quoted, to, sizeof to)) {
        const char *why = forbidden_by_name(unit_of(from).name, name);
        if (quoted)
            why = "no such file in src/ or include/";
        if (why)
            violation(report, from, number, name, why);
        return;
    }
    report->edges++;
    const char *why = edge_problem(from, to);
    if (why)
        violation(report, from, number, to, why);
}

static void check_file(const char *root, const char *folder, const char *from,
                       struct report *report)
{
    char path[2048], line[4096];
    snprintf(path, sizeof path, "%s/%s/%s", root, folder, from);
    FILE *file = fopen(path, "r");
    if (!file)
        fail_msg("cannot open %s", path);
    report->files++;
    for (int number = 1; fgets(line, sizeof line, file); number++)
        check_line(root, from, number, line, report);
    fclose(file);
}

static bool is_source(const char *name)
{
    static const char *const endings[] = {".c", ".h", ".cu", ".cuh", ".m", ".inc", ".metal"};
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++)
        if (str_ends(str_from(name), str_from(endings[i])))
            return true;
    return false;
}

/* Every source file below root/folder/below; `below` is "" or ends with a slash. */
static void check_folder(const char *root, const char *folder, const char *below,
                         struct report *report)
{
    char path[2048], child[1024];
    snprintf(path, sizeof path, "%s/%s/%s", root, folder, below);
    DIR *dir = opendir(path);
    if (!dir)
        fail_msg("cannot open %s", path);
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "%s/%s/%s%s", root, folder, below, entry->d_name);
        if (file_is_directory(path)) {
            snprintf(child, sizeof child, "%s%s/", below, entry->d_name);
            check_folder(root, folder, child, report);
        } else if (is_source(entry->d_name)) {
            snprintf(child, sizeof child, "%s%s", below, entry->d_name);
            check_file(root, folder, child, report);
        }
    }
    closedir(dir);
}

static void test_the_tree_obeys_the_ranks(void **state)
{
    (void)state;
    struct report report = {0};
    const char *root = fixture_path(".");
    check_folder(root, "src", "", &report);
    check_folder(root, "include", "", &report);
    print_message("%u include edges checked in %u files, %u violations\n", report.edges,
                  report.files, report.violations);
    /* A scan that finds next to nothing has lost its way, not proved anything. */
    assert_true(report.files >= 50);
    assert_true(report.edges >= 200);
    assert_int_equal(report.violations, 0);
    buf_release(&report.last);
}

/* Examples are outsiders: the public header and nothing else of ours. */
static void test_examples_use_the_public_header_only(void **state)
{
    (void)state;
    char line[4096], name[512];
    unsigned edges = 0;
    DIR *dir = opendir(fixture_path("examples"));
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir));) {
        char relative[512];
        if (!is_source(entry->d_name))
            continue;
        snprintf(relative, sizeof relative, "examples/%s", entry->d_name);
        FILE *file = fopen(fixture_path(relative), "r");
        assert_non_null(file);
        while (fgets(line, sizeof line, file)) {
            bool quoted;
            if (!parse_include(line, name, sizeof name, &quoted) || !quoted)
                continue;
            edges++;
            assert_string_equal(name, "sluice.h");
        }
        fclose(file);
    }
    closedir(dir);
    assert_true(edges > 0);
}

static void test_edges_that_are_allowed(void **state)
{
    (void)state;
    static const char *const allowed[][2] = {
        {"base/str.c", "base/str.h"},
        {"text/jinja/jinja.c", "text/span.h"},
        {"format/gguf.c", "quant/tensor_type.h"},
        {"sched/sched.c", "kv/kv.h"},
        {"backend/registry.c", "backend/cpu/cpu.h"},
        {"backend/cpu/linear.c", "backend/backend.h"},
        {"backend/cpu/linear.c", "backend/sample_step.h"},
        {"backend/cpu/x86/avx2.c", "backend/cpu/kernels.h"},
        {"engine/loop.c", "backend/registry.h"},
        {"engine/loop.c", "model/model.h"},
        {"engine/engine.c", "sluice.h"},
        {"cli/main.c", "sluice.h"},
        {"cli/main.c", "base/json.h"},
    };
    for (size_t i = 0; i < sizeof allowed / sizeof *allowed; i++)
        assert_null(edge_problem(allowed[i][0], allowed[i][1]));
}

static void test_edges_that_are_not(void **state)
{
    (void)state;
    static const char *const denied[][2] = {
        {"base/str.c", "text/span.h"},           /* up */
        {"kv/kv.c", "quant/tensor_type.h"},      /* sideways */
        {"text/jinja/jinja.c", "hw/hardware.h"}, /* sideways */
        {"program/program.c", "format/gguf.h"},  /* sideways */
        {"model/model.c", "engine/events.h"},    /* up */
        {"model/model.c", "backend/ref/ref.h"},  /* not the registry */
        {"engine/loop.c", "backend/cpu/cpu.h"},  /* lower, but still not the registry */
        {"cli/main.c", "backend/ref/ref.h"},     /* the same from the top */
        {"backend/sample_step.c", "backend/cpu/internal.h"},
        {"backend/cuda/cuda.cu", "backend/cpu/internal.h"},
        {"backend/cpu/walk.c", "model/model.h"},  /* sideways */
        {"backend/backend.h", "model/model.h"},   /* up */
        {"server/http.c", "bench/load.h"},        /* sideways */
        {"model/model.c", "sluice.h"},            /* below the engine */
        {"sluice.h", "base/status.h"},            /* libc only */
        {"sched/sched.c", "quant/tensor_type.h"}, /* lower, but a tensor */
        {"engine/loop.c", "base/json.h"},         /* lower, but JSON */
        {"newmodule/a.c", "base/str.h"},          /* unranked */
        {"base/str.c", "newmodule/a.h"},
    };
    for (size_t i = 0; i < sizeof denied / sizeof *denied; i++)
        if (!edge_problem(denied[i][0], denied[i][1]))
            fail_msg("%s including %s was allowed", denied[i][0], denied[i][1]);
}

static void write_file(const char *root, const char *name, const char *text)
{
    char path[2048];
    snprintf(path, sizeof path, "%s/%s", root, name);
    for (char *slash = strchr(path + strlen(root) + 1, '/'); slash;
         slash = strchr(slash + 1, '/')) {
        *slash = 0;
        mkdir(path, 0755);
        *slash = '/';
    }
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

static void expect_scan(const char *root, const char *text, unsigned edges, unsigned violations)
{
    struct report report = {.quiet = true};
    write_file(root, "src/base/probe.c", text);
    check_folder(root, "src", "", &report);
    if (report.edges != edges || report.violations != violations)
        fail_msg("%s -> %u edges, %u violations (%s)", text, report.edges, report.violations,
                 buf_str(&report.last).data);
    buf_release(&report.last);
}

/* The scanner itself, over a small tree with one bad line at a time, in every spelling. */
static void test_a_bad_line_is_found_in_a_tree(void **state)
{
    (void)state;
    char root[1100];
    snprintf(root, sizeof root, "%s/layering", fixture_scratch());
    mkdir(root, 0755);
    write_file(root, "src/engine/loop.h", "");
    write_file(root, "src/base/own.h", "");
    write_file(root, "include/sluice.h", "");
    expect_scan(root, "#include \"base/own.h\"\n#include \"own.h\"\n#include <stdio.h>\n", 2, 0);
    expect_scan(root, "#include \"engine/loop.h\"\n", 1, 1);
    expect_scan(root, "int a;\n\t#  include\t<engine/loop.h> /* sneaky */\n", 1, 1);
    expect_scan(root, "#include \"../engine/loop.h\"\n", 0, 1);
    expect_scan(root, "#include HEADER\n", 0, 1);
    expect_scan(root, "#include \"nowhere.h\"\n", 0, 1);
    expect_scan(root, "#include \"sluice.h\"\n", 1, 1);
    expect_scan(root, "", 0, 0);
    write_file(root, "src/engine/loop.h", "#include <jansson.h>\n");
    expect_scan(root, "", 0, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_tree_obeys_the_ranks),
        cmocka_unit_test(test_examples_use_the_public_header_only),
        cmocka_unit_test(test_edges_that_are_allowed),
        cmocka_unit_test(test_edges_that_are_not),
        cmocka_unit_test(test_a_bad_line_is_found_in_a_tree),
    };
    return cmocka_run_group_tests_name("layering", tests, NULL, NULL);
}

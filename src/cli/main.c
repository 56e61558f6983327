/* The front door: find the command, parse its options, run it, turn its status into an exit code. */
#include <locale.h>
#include <signal.h>
#include <string.h>

#include "cli/cli.h"

static const struct command *const commands[] = {
    &command_run,        &command_show,     &command_hardware,   &command_tokenize,
    &command_detokenize, &command_logits,   &command_render,     &command_bench,
    &command_synth,      &command_quantize, &command_perplexity, &command_serve,
};
#define N_COMMANDS (sizeof commands / sizeof *commands)

static void print_overview(FILE *out)
{
    fprintf(out, "sluice runs large language models on your own machine.\n\n"
                 "  sluice run                        chat with the bundled demo model\n"
                 "  sluice run MODEL.gguf             chat with a model file\n"
                 "  sluice run MODEL.gguf \"PROMPT\"    one answer, then exit\n"
                 "  sluice serve MODEL.gguf           the OpenAI API on http://127.0.0.1:8080\n\n"
                 "Commands:\n");
    for (size_t i = 0; i < N_COMMANDS; i++)
        fprintf(out, "  %-12s %s\n", commands[i]->name, commands[i]->synopsis);
    fprintf(out,
            "  %-12s %s\n\n"
            "A MODEL is a .gguf file (or the first of a split one), or a folder with config.json\n"
            "and safetensors files.\n"
            "'sluice COMMAND --help' explains a command and its options.\n\n"
            "Exit codes: 0 ok, 2 usage, 3 model file, 4 network, 5 integrity, 6 disk,\n"
            "            7 memory or device\n",
            "version", "print the version");
}

static int fail(const char *command, enum status status, const struct error *err)
{
    fprintf(stderr, "%ssluice%s%s:%s %s\n", terminal_bold(stderr), command ? " " : "",
            command ? command : "", terminal_reset(stderr), err->message);
    return status_exit_code(status);
}

static const struct command *find_command(const char *name)
{
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    return NULL;
}

static int run_command(const struct command *command, int argc, char **argv)
{
    struct error err = {STATUS_OK, ""};
    struct arguments arguments;
    bool help;
    enum status status = options_parse(command, argc, argv, &arguments, &help, &err);
    if (status == STATUS_OK && help) {
        options_print_help(command, stdout);
        return 0;
    }
    if (status == STATUS_OK)
        status = command->run(&arguments, &err);
    if (status == STATUS_OK && (fflush(stdout) != 0 || ferror(stdout)))
        status = error_set(&err, STATUS_DISK, "cannot write the output");
    return status == STATUS_OK ? 0 : fail(command->name, status, &err);
}

/* A misspelt command, or what was meant for run. */
static int unknown_command(const char *name)
{
    struct error err;
    const char *nearest = NULL;
    size_t best = 3;
    for (size_t i = 0; i < N_COMMANDS; i++) {
        size_t d = options_distance(name, strlen(name), commands[i]->name);
        if (d < best) {
            best = d;
            nearest = commands[i]->name;
        }
    }
    if (nearest)
        error_set(&err, STATUS_USAGE, "unknown command '%s': did you mean '%s'?", name, nearest);
    else if (strchr(name, '/') || strstr(name, ".gguf"))
        error_set(&err, STATUS_USAGE, "'%s' is no command: to run a model, 'sluice run %s'", name,
                  name);
    else
        error_set(&err, STATUS_USAGE, "unknown command '%s': 'sluice --help' lists the commands",
                  name);
    return fail(NULL, STATUS_USAGE, &err);
}

int main(int argc, char **argv)
{
    setlocale(LC_CTYPE, "");
    signal(SIGPIPE, SIG_IGN);
    const char *name = argc > 1 ? argv[1] : "help";
    if (strcmp(name, "help") == 0 && argc > 2)
        name = argv[2];
    const struct command *command = find_command(name);
    if (command && strcmp(argv[1], "help") == 0) {
        options_print_help(command, stdout);
        return 0;
    }
    if (command)
        return run_command(command, argc - 2, argv + 2);
    if (strcmp(name, "help") == 0 || strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
        print_overview(stdout);
        return 0;
    }
    if (strcmp(name, "version") == 0 || strcmp(name, "--version") == 0) {
        printf("%s\n", sluice_version());
        return 0;
    }
    return unknown_command(name);
}

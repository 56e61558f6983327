/*
 * The report as a page for browsers: one file without scripts, so that it can be mailed and kept. Two
 * plots over the levels (throughput, time to first token), then the table and the lines below it.
 *
 *   points of a plot stand at the logarithm of their level's users (or requests per second), so that
 *   1, 8, 32 and 128 users are about equally far apart
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "bench/load.h"

#define PLOT_WIDTH  440.0
#define PLOT_HEIGHT 260.0
#define MARGIN_LEFT 64.0
#define MARGIN_TOP  24.0
#define MARGIN_LOW  52.0
#define PADDING     24.0 /* between the axis and the first and last point */
#define GRID_LINES  4

static const char style[] =
    ":root{color-scheme:light dark}"
    "body{font:16px/1.5 system-ui,sans-serif;max-width:68rem;margin:2rem auto;padding:0 1rem}"
    "h1{margin:0;font-size:1.6rem}p{margin:.2rem 0 1.5rem;opacity:.75}"
    ".plots{display:flex;flex-wrap:wrap;gap:2rem}figure{margin:0;flex:1 1 26rem}"
    "figcaption{font-weight:600}"
    "svg{width:100%;font:12px system-ui,sans-serif;fill:currentColor}"
    "polyline{fill:none;stroke:#2a7de1;stroke-width:2}circle{fill:#2a7de1}"
    ".second polyline{stroke:#e08a1e;stroke-dasharray:6 4}.second circle{fill:#e08a1e}"
    ".grid{stroke:#8884}.muted{opacity:.7}"
    ".table{overflow-x:auto}table{border-collapse:collapse;margin:1.5rem 0;"
    "font-variant-numeric:tabular-nums}"
    "th,td{padding:.3rem .8rem;text-align:right;border-bottom:1px solid #8884}"
    "th{font-weight:600;vertical-align:bottom}";

static void write_escaped(struct buf *out, const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '<')
            buf_append_cstr(out, "&lt;");
        else if (text[i] == '&')
            buf_append_cstr(out, "&amp;");
        else
            buf_append_char(out, text[i]);
    }
}

/* ---- plots ------------------------------------------------------------------------------------ */

typedef double (*value_fn)(const struct load_summary *summary);

static double throughput(const struct load_summary *s)
{
    return s->total_rate;
}

static double first_p50(const struct load_summary *s)
{
    return s->first_p50 * 1e3;
}

static double first_p95(const struct load_summary *s)
{
    return s->first_p95 * 1e3;
}

static double abscissa(const struct load_level *level)
{
    return level->rate > 0 ? level->rate : level->users;
}

/* The least of 1, 2, 4, 6, 8, 10, ... that is not below: quarters of them are short numbers. */
static double round_up(double value)
{
    double power = pow(10.0, floor(log10(value > 0 ? value : 1)));
    static const double steps[] = {1, 2, 4, 6, 8, 10};
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++)
        if (value <= steps[i] * power)
            return steps[i] * power;
    return 10 * power;
}

struct scale {
    double least, most; /* of the abscissa */
    double highest;
};

static void scale_to(const struct load_report *report, value_fn value, struct scale *scale)
{
    for (uint32_t i = 0; i < report->n_levels; i++) {
        struct load_summary s;
        double at = abscissa(&report->levels[i]);
        load_summarize(&report->levels[i], &s);
        scale->highest = fmax(scale->highest, value(&s)); /* a NaN loses */
        scale->most = fmax(scale->most, at);
        scale->least = scale->least > 0 ? fmin(scale->least, at) : at;
    }
}

static double place(const struct scale *scale, const struct load_level *level)
{
    double room = PLOT_WIDTH - 2 * PADDING, whole = log2(scale->most / scale->least);
    double share = whole > 0 ? log2(abscissa(level) / scale->least) / whole : 0.5;
    return MARGIN_LEFT + PADDING + room * share;
}

static void write_grid(const struct load_report *report, const struct scale *scale,
                       const char *below, struct buf *out)
{
    for (int i = 0; i <= GRID_LINES; i++) {
        double y = MARGIN_TOP + PLOT_HEIGHT * (1 - i / (double)GRID_LINES);
        buf_printf(out,
                   "<line x1=\"%g\" x2=\"%g\" y1=\"%g\" y2=\"%g\" class=\"grid\"/>"
                   "<text x=\"%g\" y=\"%g\" text-anchor=\"end\" class=\"muted\">%g</text>\n",
                   MARGIN_LEFT, MARGIN_LEFT + PLOT_WIDTH, y, y, MARGIN_LEFT - 8, y + 4,
                   scale->highest * i / GRID_LINES);
    }
    for (uint32_t i = 0; i < report->n_levels; i++)
        if (!report->levels[i].cold)
            buf_printf(out, "<text x=\"%.1f\" y=\"%g\" text-anchor=\"middle\">%g</text>\n",
                       place(scale, &report->levels[i]), MARGIN_TOP + PLOT_HEIGHT + 20,
                       abscissa(&report->levels[i]));
    buf_printf(out, "<text x=\"%g\" y=\"%g\" text-anchor=\"middle\" class=\"muted\">%s</text>\n",
               MARGIN_LEFT + PLOT_WIDTH / 2, MARGIN_TOP + PLOT_HEIGHT + 42, below);
}

/* The levels without (or those beside) cold prompts as one line; its points carry their values,
 * above or below them. */
static void write_line(const struct load_report *report, const struct scale *scale, value_fn value,
                       bool cold, bool second, bool below, struct buf *out)
{
    struct buf points = {0};
    buf_printf(out, "<g%s>", second ? " class=\"second\"" : "");
    for (uint32_t i = 0; i < report->n_levels; i++) {
        const struct load_level *level = &report->levels[i];
        struct load_summary s;
        load_summarize(level, &s);
        double at = value(&s);
        if (level->cold != cold || isnan(at))
            continue;
        double x = place(scale, level);
        double y = MARGIN_TOP + PLOT_HEIGHT * (1 - at / scale->highest);
        buf_printf(&points, "%.1f,%.1f ", x, y);
        buf_printf(out,
                   "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\"/><text x=\"%.1f\" y=\"%.1f\" "
                   "text-anchor=\"middle\">%.*f</text>\n",
                   x, y, x, below ? y + 18 : y - 9, at < 100 ? 1 : 0, at);
    }
    buf_printf(out, "<polyline points=\"%s\"/></g>\n", points.data ? points.data : "");
    buf_release(&points);
}

/* `more` (may be NULL) is a second line; without it the levels beside cold prompts are. */
static void write_plot(const struct load_report *report, const char *title, value_fn value,
                       value_fn more, struct buf *out)
{
    struct scale scale = {0};
    bool cold = report->config.cold_tokens > 0;
    scale_to(report, value, &scale);
    if (more)
        scale_to(report, more, &scale);
    scale.highest = round_up(scale.highest);
    buf_printf(out,
               "<figure><figcaption>%s%s</figcaption>\n<svg viewBox=\"0 0 %g %g\" role=\"img\" "
               "aria-label=\"%s\">\n",
               title, cold && !more ? " (dashed: beside cold prompts)" : "",
               MARGIN_LEFT + PLOT_WIDTH + 8, MARGIN_TOP + PLOT_HEIGHT + MARGIN_LOW, title);
    write_grid(report, &scale, report->config.rates[0] > 0 ? "requests per second" : "users", out);
    write_line(report, &scale, value, false, false, more != NULL, out);
    if (more)
        write_line(report, &scale, more, false, true, false, out);
    else if (cold)
        write_line(report, &scale, value, true, true, true, out);
    buf_append_cstr(out, "</svg></figure>\n");
}

/* ---- the page --------------------------------------------------------------------------------- */

static void write_table(const struct load_report *report, struct buf *out)
{
    bool open = report->config.rates[0] > 0;
    buf_printf(out,
               "<div class=\"table\"><table>\n<thead><tr><th rowspan=\"2\">%s<th "
               "rowspan=\"2\">requests<th colspan=\"2\">tokens/s<th colspan=\"3\">first token, "
               "ms<th colspan=\"2\">gap, ms<th rowspan=\"2\">cached<th rowspan=\"2\">errors</tr>\n"
               "<tr><th>total<th>each (p50)<th>p50<th>p95<th>p99<th>p50<th>p99</tr></thead>\n",
               open ? "requests/s" : "users");
    for (uint32_t i = 0; i < report->n_levels; i++) {
        buf_append_cstr(out, "<tr><td>");
        load_write_row(&report->levels[i], "<td>", "</tr>", out);
    }
    buf_append_cstr(out, "</table></div>\n");
}

static void write_notes(const struct load_report *report, struct buf *out)
{
    struct buf notes = {0};
    load_write_notes(report, "", &notes);
    if (notes.len)
        buf_append_cstr(out, "<ul>\n");
    for (const char *line = notes.data; line && *line; line = strchr(line, '\n') + 1) {
        buf_append_cstr(out, "<li>");
        write_escaped(out, line, strcspn(line, "\n"));
        buf_append_char(out, '\n');
    }
    if (notes.len)
        buf_append_cstr(out, "</ul>\n");
    buf_release(&notes);
}

void load_print_html(const struct load_report *report, struct buf *out)
{
    struct buf title = {0};
    load_write_title(report, &title);
    size_t name = strlen(report->model);
    struct str rest = {title.data ? title.data + name : "",
                       title.len > name ? title.len - name : 0};
    buf_append_cstr(out,
                    "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta "
                    "name=\"viewport\" content=\"width=device-width\">\n<title>sluice bench: ");
    write_escaped(out, report->model, name);
    buf_printf(out, "</title>\n<style>%s</style>\n<h1>", style);
    write_escaped(out, report->model, name);
    buf_append_cstr(out, "</h1>\n<p>");
    write_escaped(out, rest.data, rest.len);
    buf_append_cstr(out, "</p>\n<div class=\"plots\">\n");
    write_plot(report, "Output of all together, tokens/s", throughput, NULL, out);
    write_plot(report, "Time to first token, ms: p50, and p95 (dashed)", first_p50, first_p95, out);
    buf_append_cstr(out, "</div>\n");
    write_table(report, out);
    write_notes(report, out);
    buf_release(&title);
}

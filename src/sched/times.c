/*
 * What steps take, learned from those that ran.
 *
 * A step costs what its generated rows take alone (kept by how many they are), a price for having
 * prompt rows at all (kernels that unpack weights for them pay it once) and one for each of them,
 * rounded up to the tiles that they are computed in. The last two are a line through the last steps
 * with prompt rows.
 *
 * A line needs many steps where chunks are of nearly one length and times scatter: drawn through the
 * last few it took every delay for a price that no chunk can pay, and prompts crept on by a row a
 * step. But machines change their speed within seconds, by what their neighbours do. So there are
 * two memories: a long one of the line and the times, divided by the pace of their moment, and a
 * short one of the pace alone. A single delay counts as half a step more at most.
 */
#include "sched/internal.h"

#define AGE_MOST 64  /* mixed steps after which generated rows are measured alone again */
#define MEMORY   32  /* steps with prompt rows that the line remembers */
#define LASTING  128 /* steps after which another pace has become the usual one */
#define DOUBT    1.5 /* no single step is believed to be so many times longer or shorter */

static uint32_t load_class(uint32_t n)
{
    uint32_t power = 0;
    while (power < LOADS / 2 - 1 && n >> (power + 1))
        power++;
    return 2 * power + (power ? n >> (power - 1) & 1 : 0);
}

static void blend(double *average, double value, double weight)
{
    *average = *average > 0.0 ? (1.0 - weight) * *average + weight * value : value;
}

static double clamp(double value, double least, double most)
{
    return value < least ? least : value > most ? most : value;
}

double times_alone(const struct times *t, uint32_t n_generated)
{
    return n_generated ? t->pace * t->generated[load_class(n_generated)] : 0.0;
}

bool times_due(struct times *t, uint32_t n_generated)
{
    uint32_t load = load_class(n_generated);
    if (t->row <= 0.0 || (t->generated[load] > 0.0 && t->age[load] < AGE_MOST))
        return false;
    t->age[load] = 0;
    return true;
}

uint32_t times_fit(const struct times *t, double ns, uint32_t most)
{
    double fit = (ns / t->pace - t->prompts) / t->row;
    if (fit >= (double)most)
        return most;
    return fit <= 0.0 ? 0 : (uint32_t)fit / t->together * t->together;
}

/* As many as would take no longer. */
static double whole_tiles(const struct times *t, uint32_t n_prompt)
{
    return (double)((n_prompt + t->together - 1) / t->together * t->together);
}

static void note_prompts(struct times *t, double n, double took)
{
    t->n_noted += t->n_noted < MEMORY;
    double weight = 1.0 / t->n_noted;
    blend(&t->n, n, weight);
    blend(&t->took, took, weight);
    blend(&t->n_n, n * n, weight);
    blend(&t->n_took, n * took, weight);
    double mean = t->took / t->n, spread = t->n_n - t->n * t->n;
    if (spread > 0.02 * t->n_n) /* chunks of different lengths */
        t->row = (t->n_took - t->n * t->took) / spread;
    else
        t->row = (t->took - t->prompts) / t->n;
    t->row = clamp(t->row, mean / 8, mean);
    t->prompts = t->took - t->row * t->n;
}

static double expect(const struct times *t, uint32_t n_generated, uint32_t n_prompt)
{
    double alone = times_alone(t, n_generated);
    bool known = (n_generated == 0 || alone > 0.0) && (n_prompt == 0 || t->row > 0.0);
    return known ? alone +
                       (n_prompt ? t->pace * (t->prompts + whole_tiles(t, n_prompt) * t->row) : 0.0)
                 : 0.0;
}

void sched_measure(struct sched *sched, uint32_t n_generated, uint32_t n_prompt, uint64_t ns)
{
    struct times *t = &sched->times;
    uint32_t load = load_class(n_generated);
    double took = (double)ns, expected = expect(t, n_generated, n_prompt);
    if (expected > 0.0) {
        double slower = clamp(took / expected, 1.0 / DOUBT, DOUBT);
        took = slower * expected;
        t->pace *= 0.75 + 0.25 * slower;
        t->pace += (1.0 - t->pace) / LASTING;
    } else if (t->pace <= 0.0) {
        t->pace = 1.0;
    }
    took /= t->pace;
    double alone = n_generated ? t->generated[load] : 0.0;
    if (n_prompt == 0) {
        blend(&t->generated[load], took, 0.4);
        t->age[load] = 0;
    } else if (n_generated == 0 || alone > 0.0) {
        note_prompts(t, whole_tiles(t, n_prompt),
                     took - alone > took / 16 ? took - alone : took / 16);
        t->age[load]++;
    }
}

uint64_t sched_expect(const struct sched *sched, uint32_t n_generated, uint32_t n_prompt)
{
    return (uint64_t)expect(&sched->times, n_generated, n_prompt);
}

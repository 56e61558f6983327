/* The reference operations of mixtures of experts: choose, then run the chosen. */
#include <math.h>
#include <string.h>

#include "backend/ref/internal.h"

/* Chooses the k best of n scores by repeated search: ties fall to the lower id. */
static void choose(const float *scores, uint32_t n, uint32_t k, int32_t *ids)
{
    for (uint32_t i = 0; i < k; i++) {
        int32_t best = -1;
        for (uint32_t e = 0; e < n; e++) {
            bool taken = false;
            for (uint32_t j = 0; j < i && !taken; j++)
                taken = ids[j] == (int32_t)e;
            if (!taken && (best < 0 || scores[e] > scores[best]))
                best = (int32_t)e;
        }
        ids[i] = best;
    }
}

static void score(const struct op_route *op, float *logits)
{
    if (op->score == ROUTE_SIGMOID) {
        for (uint32_t e = 0; e < op->n_experts; e++)
            logits[e] = 1.0f / (1.0f + expf(-logits[e]));
        return;
    }
    float most = logits[0];
    for (uint32_t e = 1; e < op->n_experts; e++)
        most = logits[e] > most ? logits[e] : most;
    double total = 0.0;
    for (uint32_t e = 0; e < op->n_experts; e++)
        total += exp((double)(logits[e] - most));
    for (uint32_t e = 0; e < op->n_experts; e++)
        logits[e] = (float)(exp((double)(logits[e] - most)) / total);
}

/* Sum of the `best` (1 or 2) largest of n scores. */
static float group_score(const float *scores, uint32_t n, uint32_t best)
{
    float first = -INFINITY, second = -INFINITY;
    for (uint32_t e = 0; e < n; e++) {
        if (scores[e] > first) {
            second = first;
            first = scores[e];
        } else if (scores[e] > second) {
            second = scores[e];
        }
    }
    return best == 2 ? first + second : first;
}

/* Scores outside the best groups become -infinity. */
static void limit_groups(const struct op_route *op, float *scores)
{
    uint32_t each = op->n_experts / op->n_groups;
    float of_group[ROUTE_GROUPS_MAX];
    int32_t kept[ROUTE_GROUPS_MAX];
    for (uint32_t g = 0; g < op->n_groups; g++)
        of_group[g] = group_score(scores + (size_t)g * each, each, op->group_best);
    choose(of_group, op->n_groups, op->k_groups, kept);
    for (uint32_t e = 0; e < op->n_experts; e++) {
        bool keep = false;
        for (uint32_t i = 0; i < op->k_groups; i++)
            keep |= kept[i] == (int32_t)(e / each);
        if (!keep)
            scores[e] = -INFINITY;
    }
}

void ref_route(const struct ref_run *run, const struct op_route *op)
{
    uint32_t n = op->n_experts;
    float *weights = run->program->row, *scores = weights + op->in.width, *biased = scores + n;
    float *bias = biased + n, *score_bias = bias + n;
    if (op->bias != NO_WEIGHT)
        ref_vector(run, op->bias, bias);
    if (op->score_bias != NO_WEIGHT)
        ref_vector(run, op->score_bias, score_bias);
    for (uint32_t row = 0; row < ref_rows(run, op->in); row++) {
        const float *in = ref_row(run, op->in, row);
        for (uint32_t e = 0; e < n; e++) {
            ref_weight_row(run, op->weight, 0, e, weights);
            double sum = op->bias == NO_WEIGHT ? 0.0 : (double)bias[e];
            for (uint32_t i = 0; i < op->in.width; i++)
                sum += (double)weights[i] * (double)in[i];
            scores[e] = (float)sum;
        }
        score(op, scores);
        for (uint32_t e = 0; e < n; e++)
            biased[e] = scores[e] + (op->score_bias == NO_WEIGHT ? 0.0f : score_bias[e]);
        if (op->n_groups > 1)
            limit_groups(op, biased);
        float *out = ref_row(run, op->out, row);
        int32_t *ids = (int32_t *)(void *)out;
        choose(biased, n, op->k, ids);
        double total = 0.0;
        for (uint32_t i = 0; i < op->k; i++)
            total += (double)scores[ids[i]];
        total = fmax(total, (double)op->least_sum) + (double)op->added_sum;
        for (uint32_t i = 0; i < op->k; i++)
            out[op->k + i] =
                (op->normalise ? (float)((double)scores[ids[i]] / total) : scores[ids[i]]) *
                op->scale;
    }
}

/* Row `row` of expert `expert` in a stack times `in`, plus its bias (biases: all experts' in a row). */
static float row_dot(const struct ref_run *run, int32_t weight, int32_t biases, uint32_t expert,
                     uint32_t row, const float *in, uint32_t n)
{
    float *weights = run->program->row;
    ref_weight_row(run, weight, expert, row, weights);
    double sum = 0.0;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)weights[i] * (double)in[i];
    if (biases != NO_WEIGHT) {
        ref_vector(run, biases, weights);
        sum +=
            (double)weights[(size_t)expert * run->program->program->weights[weight].n_rows + row];
    }
    return (float)sum;
}

void ref_experts(const struct ref_run *run, const struct op_experts *op)
{
    uint32_t ff = run->program->program->weights[op->gate].n_rows;
    for (uint32_t row = 0; row < ref_rows(run, op->in); row++) {
        const float *in = ref_row(run, op->in, row), *route = ref_row(run, op->route, row);
        const int32_t *ids = (const int32_t *)(const void *)route;
        float *hidden = ref_row(run, op->hidden, row), *out = ref_row(run, op->out, row);
        for (uint32_t i = 0; i < op->k; i++) {
            uint32_t expert = (uint32_t)ids[i];
            for (uint32_t j = 0; j < ff; j++)
                hidden[i * ff + j] = ref_gate(
                    op->act, row_dot(run, op->gate, op->gate_bias, expert, j, in, op->in.width),
                    row_dot(run, op->up, op->up_bias, expert, j, in, op->in.width));
        }
        for (uint32_t j = 0; j < op->out.width; j++) {
            float sum = 0.0f;
            for (uint32_t i = 0; i < op->k; i++)
                sum += route[op->k + i] * row_dot(run, op->down, op->down_bias, (uint32_t)ids[i], j,
                                                  hidden + i * ff, ff);
            out[j] =
                op->residual.buffer == NO_BUFFER ? sum : ref_row(run, op->residual, row)[j] + sum;
        }
    }
}

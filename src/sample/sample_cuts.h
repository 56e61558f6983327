/*
 * The cuts: which tokens remain possible before the draw (steps 4 to 10 of sample_core.h).
 *
 * A cut works on a candidate set ids[0..n) in no particular order, over the logits in `work`, and
 * leaves a smaller one. Probabilities are those of the set as it stands: exp((work - best) / t),
 * where t is 1 until the temperature stage has passed. A cut never leaves an empty set.
 * Plain functions; C11, C++ and CUDA device code.
 */
#ifndef SLUICE_SAMPLE_SAMPLE_CUTS_H
#define SLUICE_SAMPLE_SAMPLE_CUTS_H

#include "sample/sample_row.h"

struct sampling_set {
    const float *work; /* [n_vocab] logits after bias, mask and penalties */
    int32_t *ids;      /* [n] */
    uint32_t n;
    float best;        /* highest logit of the set */
    float temperature; /* 1 until its stage */
};

/* The one order of tokens: by falling logit, then by rising id. */
SLUICE_DEVICE static inline int sampling_ahead(const float *work, int32_t a, int32_t b)
{
    return work[a] > work[b] || (work[a] == work[b] && a < b);
}

/* Restores the heap below `at`. worst: 1: the last in order is at the root; 0: the first. */
SLUICE_DEVICE static inline void sampling_sift(const float *work, int32_t *ids, uint32_t n,
                                               uint32_t at, int worst)
{
    int32_t moving = ids[at];
    for (uint32_t child = 2 * at + 1; child < n; child = 2 * at + 1) {
        if (child + 1 < n && sampling_ahead(work, ids[child + 1], ids[child]) != worst)
            child++;
        if (sampling_ahead(work, ids[child], moving) == worst)
            break;
        ids[at] = ids[child];
        at = child;
    }
    ids[at] = moving;
}

SLUICE_DEVICE static inline void sampling_heapify(const float *work, int32_t *ids, uint32_t n,
                                                  int worst)
{
    for (uint32_t at = n / 2; at-- > 0;)
        sampling_sift(work, ids, n, at, worst);
}

/* The k <= n first in order of ids[0..n), into first[0..k), which may be ids itself: a heap with the last
 * of them at its root, in no particular order otherwise. */
SLUICE_DEVICE static inline void sampling_first(const float *work, const int32_t *ids, uint32_t n,
                                                uint32_t k, int32_t *first)
{
    for (uint32_t j = 0; j < k; j++)
        first[j] = ids[j];
    sampling_heapify(work, first, k, 1);
    for (uint32_t j = k; j < n; j++)
        if (sampling_ahead(work, ids[j], first[0])) {
            first[0] = ids[j];
            sampling_sift(work, first, k, 0, 1);
        }
}

/* Top k: the possible tokens, or the k first of them, into ids in no particular order. A bounded
 * heap, so that almost every token costs one comparison with the worst one kept. */
SLUICE_DEVICE static inline uint32_t sampling_top_k(const float *work, uint32_t n_vocab,
                                                    int32_t top_k, int32_t *ids)
{
    uint32_t k = top_k > 0 && (uint32_t)top_k < n_vocab ? (uint32_t)top_k : n_vocab;
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_vocab; i++) {
        if (!(work[i] > -INFINITY))
            continue;
        if (n < k) {
            ids[n++] = (int32_t)i;
            if (n == k && k < n_vocab)
                sampling_heapify(work, ids, n, 1);
        } else if (work[i] > work[ids[0]]) {
            ids[0] = (int32_t)i;
            sampling_sift(work, ids, n, 0, 1);
        }
    }
    return n;
}

/* ---- the stages -------------------------------------------------------------------------------- */

/* Unnormalised probability of a candidate. At temperature 1 exactly expf(work - best). */
SLUICE_DEVICE static inline float sampling_weight(const struct sampling_set *set, int32_t id)
{
    return expf((set->work[id] - set->best) / set->temperature);
}

SLUICE_DEVICE static inline double sampling_total(const struct sampling_set *set)
{
    double total = 0;
    for (uint32_t j = 0; j < set->n; j++)
        total += (double)sampling_weight(set, set->ids[j]);
    return total;
}

/* Keeps candidates whose logit is at least `least`. */
SLUICE_DEVICE static inline void sampling_keep_above(struct sampling_set *set, float least)
{
    uint32_t kept = 0;
    for (uint32_t j = 0; j < set->n; j++)
        if (set->work[set->ids[j]] >= least)
            set->ids[kept++] = set->ids[j];
    set->n = kept;
}

/* The k first in order, which end up in ids[0..k). */
SLUICE_DEVICE static inline void sampling_cut_top_k(struct sampling_set *set, int32_t top_k)
{
    if (top_k <= 0 || (uint32_t)top_k >= set->n)
        return;
    sampling_first(set->work, set->ids, set->n, (uint32_t)top_k, set->ids);
    set->n = (uint32_t)top_k;
}

/* The first in order until their share of the set reaches top_p. They are drawn from a heap, ids[0..left),
 * which shrinks from its end; what was drawn gathers there, and is moved to the front at last. */
SLUICE_DEVICE static inline void sampling_cut_top_p(struct sampling_set *set, float top_p)
{
    if (!(top_p < 1.0f))
        return;
    double wanted = (double)top_p * sampling_total(set), sum = 0;
    uint32_t n = set->n, left = n;
    sampling_heapify(set->work, set->ids, n, 0);
    while (left > 0) {
        int32_t id = set->ids[0];
        set->ids[0] = set->ids[--left];
        set->ids[left] = id;
        if (left > 1)
            sampling_sift(set->work, set->ids, left, 0, 0);
        sum += (double)sampling_weight(set, id);
        if (sum >= wanted)
            break;
    }
    for (uint32_t j = left; j < n; j++)
        set->ids[j - left] = set->ids[j];
    set->n = n - left;
}

SLUICE_DEVICE static inline void sampling_cut_min_p(struct sampling_set *set, float min_p)
{
    if (!(min_p > 0))
        return;
    float least = logf(min_p);
    uint32_t kept = 0;
    for (uint32_t j = 0; j < set->n; j++)
        if ((set->work[set->ids[j]] - set->best) / set->temperature >= least)
            set->ids[kept++] = set->ids[j];
    set->n = kept;
}

/* Logits within n standard deviations of the best (Tang et al. 2024, "Top-n-sigma"). */
SLUICE_DEVICE static inline void sampling_cut_top_n_sigma(struct sampling_set *set, float n_sigma)
{
    if (!(n_sigma > 0) || set->n < 2)
        return;
    double mean = 0, variance = 0;
    for (uint32_t j = 0; j < set->n; j++)
        mean += (double)set->work[set->ids[j]];
    mean /= set->n;
    for (uint32_t j = 0; j < set->n; j++) {
        double off = (double)set->work[set->ids[j]] - mean;
        variance += off * off;
    }
    sampling_keep_above(set, set->best - n_sigma * (float)sqrt(variance / set->n));
}

/* How far a candidate's surprise lies from the set's entropy, both in nats. */
SLUICE_DEVICE static inline float sampling_atypical(const struct sampling_set *set, int32_t id,
                                                    float log_total, float entropy)
{
    float surprise = log_total - (set->work[id] - set->best) / set->temperature;
    return fabsf(surprise - entropy);
}

/* True if a comes before b among the typical: nearer to the entropy, then the lower id. */
SLUICE_DEVICE static inline int sampling_more_typical(const struct sampling_set *set, int32_t a,
                                                      int32_t b, float log_total, float entropy)
{
    float x = sampling_atypical(set, a, log_total, entropy);
    float y = sampling_atypical(set, b, log_total, entropy);
    return x < y || (x == y && a < b);
}

/* Restores the heap below `at`: the most typical candidate at the root. */
SLUICE_DEVICE static inline void sampling_sift_typical(const struct sampling_set *set, uint32_t n,
                                                       uint32_t at, float log_total, float entropy)
{
    int32_t *ids = set->ids, moving = ids[at];
    for (uint32_t child = 2 * at + 1; child < n; child = 2 * at + 1) {
        if (child + 1 < n &&
            sampling_more_typical(set, ids[child + 1], ids[child], log_total, entropy))
            child++;
        if (!sampling_more_typical(set, ids[child], moving, log_total, entropy))
            break;
        ids[at] = ids[child];
        at = child;
    }
    ids[at] = moving;
}

/* The fewest candidates nearest to the expected surprise whose share reaches typical_p (Meister et
 * al. 2023, "Locally typical sampling"). Drawn as for top p, from a heap of the typical. */
SLUICE_DEVICE static inline void sampling_cut_typical_p(struct sampling_set *set, float typical_p)
{
    if (!(typical_p > 0 && typical_p < 1.0f) || set->n < 2)
        return;
    double total = sampling_total(set), expected = 0, sum = 0;
    for (uint32_t j = 0; j < set->n; j++) {
        float x = (set->work[set->ids[j]] - set->best) / set->temperature;
        if (x > -FLT_MAX)
            expected += (double)expf(x) * (double)x;
    }
    float log_total = logf((float)total), entropy = log_total - (float)(expected / total);
    uint32_t n = set->n, left = n;
    for (uint32_t at = n / 2; at-- > 0;)
        sampling_sift_typical(set, n, at, log_total, entropy);
    while (left > 0) {
        int32_t id = set->ids[0];
        set->ids[0] = set->ids[--left];
        set->ids[left] = id;
        if (left > 1)
            sampling_sift_typical(set, left, 0, log_total, entropy);
        sum += (double)sampling_weight(set, id);
        if (sum >= (double)typical_p * total)
            break;
    }
    for (uint32_t j = left; j < n; j++)
        set->ids[j - left] = set->ids[j];
    set->n = n - left;
    set->best = -INFINITY; /* the most probable token may be the least typical */
    for (uint32_t k = 0; k < set->n; k++)
        set->best = set->work[set->ids[k]] > set->best ? set->work[set->ids[k]] : set->best;
}

/* "Exclude top choices": with the given probability, drops all candidates of at least `threshold`
 * except the least likely of them, so that the answer leaves the beaten track where it can. */
SLUICE_DEVICE static inline void sampling_cut_xtc(struct sampling_set *set, float probability,
                                                  float threshold, uint64_t key)
{
    if (!(probability > 0) || !(threshold <= 0.5f) || set->n < 2)
        return;
    uint64_t bits = sampling_mix(key ^ SAMPLING_XTC) >> 40; /* 24 bits: exact in a float */
    if (!((float)(uint32_t)bits * 0x1p-24f < probability))
        return;
    double least = (double)threshold * sampling_total(set);
    int32_t last = -1;
    uint32_t above = 0, kept = 0;
    for (uint32_t j = 0; j < set->n; j++) {
        int32_t id = set->ids[j];
        if (!((double)sampling_weight(set, id) >= least))
            continue;
        above++;
        if (last < 0 || sampling_ahead(set->work, last, id))
            last = id;
    }
    if (above < 2)
        return;
    for (uint32_t j = 0; j < set->n; j++) {
        int32_t id = set->ids[j];
        if (id == last || !((double)sampling_weight(set, id) >= least))
            set->ids[kept++] = id;
    }
    set->n = kept;
    set->best = set->work[last]; /* what is left lies below the threshold, or is `last` itself */
}

SLUICE_DEVICE static inline void sampling_stage_run(const struct sampling_row *row, uint32_t stage,
                                                    uint64_t key, struct sampling_set *set)
{
    switch (stage) {
    case STAGE_TOP_N_SIGMA:
        sampling_cut_top_n_sigma(set, row->top_n_sigma);
        break;
    case STAGE_TOP_K:
        sampling_cut_top_k(set, row->top_k);
        break;
    case STAGE_TYPICAL_P:
        sampling_cut_typical_p(set, row->typical_p);
        break;
    case STAGE_TOP_P:
        sampling_cut_top_p(set, row->top_p);
        break;
    case STAGE_MIN_P:
        sampling_cut_min_p(set, row->min_p);
        break;
    case STAGE_XTC:
        sampling_cut_xtc(set, row->xtc_probability, row->xtc_threshold, key);
        break;
    default: /* STAGE_TEMPERATURE */
        set->temperature = row->temperature;
        break;
    }
}

/* ---- mirostat ---------------------------------------------------------------------------------- */

/* Version 2 (Basu et al. 2021, algorithm 2): drops what would surprise by more than mu bits; the
 * most probable candidate always stays. */
SLUICE_DEVICE static inline void sampling_cut_surprise(struct sampling_set *set, float mu)
{
    double total = sampling_total(set);
    uint32_t kept = 0;
    for (uint32_t j = 0; j < set->n; j++) {
        int32_t id = set->ids[j];
        float surprise = -log2f((float)((double)sampling_weight(set, id) / total));
        if (set->work[id] == set->best || surprise <= mu)
            set->ids[kept++] = id;
    }
    set->n = kept;
}

#define SAMPLING_MIROSTAT_ROWS 100 /* candidates that version 1 estimates Zipf's exponent from */

/* Version 1 (algorithm 1): how many candidates give a surprise of mu bits under a Zipf law fitted to
 * the most probable ones. */
SLUICE_DEVICE static inline int32_t sampling_mirostat_k(const struct sampling_set *set,
                                                        uint32_t n_vocab, float mu)
{
    uint32_t m = set->n < SAMPLING_MIROSTAT_ROWS ? set->n : SAMPLING_MIROSTAT_ROWS;
    int32_t first[SAMPLING_MIROSTAT_ROWS];
    sampling_first(set->work, set->ids, set->n, m, first);
    for (uint32_t j = m; j > 1;) { /* heap sort: the last in order goes to the end */
        int32_t id = first[0];
        first[0] = first[--j];
        first[j] = id;
        sampling_sift(set->work, first, j, 0, 1);
    }
    /* Zipf's exponent s: neighbours j + 1 and j + 2 have log ratios of ranks t and of probabilities b =
     * s * t, fitted by least squares. */
    double tb = 0, tt = 0;
    for (uint32_t j = 0; j + 1 < m; j++) {
        float t = logf((float)(j + 2) / (float)(j + 1));
        float b = (set->work[first[j]] - set->work[first[j + 1]]) / set->temperature;
        tb += (double)(t * b);
        tt += (double)(t * t);
    }
    double s = tt > 0 ? tb / tt : 1.0, epsilon = s - 1.0;
    double k =
        fabs(epsilon) < 1e-9
            ? pow(2.0, (double)mu / s)
            : pow(epsilon * pow(2.0, (double)mu) / (1.0 - pow((double)n_vocab, -epsilon)), 1.0 / s);
    if (!(k >= 1.0))
        return 1;
    return k < 2147483647.0 ? (int32_t)(k + 0.5) : 2147483647;
}

#endif

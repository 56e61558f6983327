/*
 * sample_core: drawing one token from one row of logits, as plain functions over plain memory.
 *
 * sample_row.h (what goes in and out), sample_cuts.h (the cuts) and this header are the whole
 * algorithm. They compile as C11, as C++ and, for one thread per row, as CUDA device code
 * (SLUICE_DEVICE), so that every backend draws by the same rules. Nothing here allocates or keeps
 * state, and the result depends on the arguments only. sample.h says what the parameters mean and
 * wraps this for the host.
 *
 * The steps, in this order:
 *   1 bias        added to the raw logits
 *   2 mask        bit i % 32 of word i / 32 set = token i allowed; others become impossible
 *   3 penalties   repeat (divide a positive logit, multiply a negative one), then frequency x count
 *                 and presence, subtracted; then DRY
 *   - temperature <= 0: the highest logit wins, the lowest id among equals; the rest is skipped
 *   4 top_n_sigma within n standard deviations of the highest logit
 *   5 top_k       the k highest logits (lower ids win ties)
 *   6 typical_p   those whose surprise is nearest to the expected one
 *   7 top_p       the smallest set of the most probable whose share is >= top_p
 *   8 min_p       those with at least min_p times the probability of the most probable one
 *   9 xtc         sometimes without the most probable ones
 *  10 temperature
 *  11 the draw
 * Steps 4 to 10 run in the order that sampling_row.order names; this is the default one. Mirostat,
 * where it is on, takes the place of all cuts: temperature, then its own.
 *
 * Why temperature comes last (as in llama.cpp and Ollama, unlike OpenAI and vLLM): the cuts then
 * judge by the model's own distribution, so a high temperature varies the choice among plausible
 * tokens and never lets implausible ones in. At temperature 1 both orders are the same.
 *
 * The draw is "Gumbel-max": every token of the final set gets noise from a counter-based generator
 * keyed by (seed, position, token id), and the highest logit / temperature + noise wins, which has
 * exactly the softmax distribution. Against a cumulative sum it needs no order, so a parallel
 * reduction draws the same token; neighbours in the batch and earlier calls cannot matter; and a
 * last-bit difference between two backends changes the draw only on a near-tie.
 *
 * NaN counts as -infinity and +infinity as FLT_MAX; nothing here can fault on any bit pattern.
 */
#ifndef SLUICE_SAMPLE_SAMPLE_CORE_H
#define SLUICE_SAMPLE_SAMPLE_CORE_H

#include "sample/sample_cuts.h"

/* Step 3 without DRY. ids serves as [n_vocab] counters, of which only those named by the history are touched. */
SLUICE_DEVICE static inline void sampling_penalize(const struct sampling_row *row,
                                                   const struct sampling_input *in)
{
    const int32_t seen = 1 << 30;
    int32_t *counts = in->ids;
    uint32_t end = in->position;
    uint32_t repeat_from = end, generated_from = end;
    if (row->repeat_penalty != 1.0f && row->repeat_last_n < 0)
        repeat_from = 0;
    else if (row->repeat_penalty != 1.0f)
        repeat_from =
            end - ((uint32_t)row->repeat_last_n < end ? (uint32_t)row->repeat_last_n : end);
    if (row->presence_penalty != 0.0f || row->frequency_penalty != 0.0f)
        generated_from = row->n_prompt < end ? row->n_prompt : end;
    uint32_t from = repeat_from < generated_from ? repeat_from : generated_from;
    for (uint32_t p = from; p < end; p++)
        if ((uint32_t)in->history[p] < in->n_vocab)
            counts[in->history[p]] = 0;
    for (uint32_t p = from; p < end; p++) {
        if ((uint32_t)in->history[p] >= in->n_vocab)
            continue;
        int32_t *count = &counts[in->history[p]];
        if (p >= repeat_from)
            *count |= seen;
        if (p >= generated_from)
            (*count)++;
    }
    for (uint32_t p = from; p < end; p++) {
        int32_t id = in->history[p];
        if ((uint32_t)id >= in->n_vocab || counts[id] == 0)
            continue;
        float x = in->work[id];
        int32_t times = counts[id] & ~seen;
        if (counts[id] & seen)
            x = x > 0 ? x / row->repeat_penalty : x * row->repeat_penalty;
        if (times > 0)
            x -= (float)times * row->frequency_penalty + row->presence_penalty;
        in->work[id] = sampling_bounded(x);
        counts[id] = 0; /* each distinct token once */
    }
}

#define SAMPLING_DRY_MATCH_MAX 128 /* a longer repetition weighs no more */

/* How many tokens before and including history[at] equal those at the history's end, up to a
 * breaker. */
SLUICE_DEVICE static inline int32_t sampling_dry_match(const struct sampling_input *in,
                                                       uint32_t from, uint32_t at)
{
    const int32_t *history = in->history;
    uint32_t end = in->position;
    int32_t length = 0;
    while (length < SAMPLING_DRY_MATCH_MAX && (uint32_t)length <= at - from) {
        int32_t id = history[at - (uint32_t)length];
        if (id != history[end - 1 - (uint32_t)length] || (uint32_t)id >= in->n_vocab)
            break;
        if (in->breakers && in->breakers[(uint32_t)id >> 5] >> (id & 31) & 1)
            break;
        length++;
    }
    return length;
}

/* "Don't repeat yourself": a token that would lengthen a repetition of the last `length` tokens to
 * length + 1 loses multiplier * base^(length - allowed_length). The longest repetition counts; ids
 * serves as [n_vocab] lengths, of which only those named by the history are touched. */
SLUICE_DEVICE static inline void sampling_dry(const struct sampling_row *row,
                                              const struct sampling_input *in)
{
    uint32_t end = in->position, from = 0;
    if (!(row->dry_multiplier > 0) || row->dry_last_n == 0 || end < 2)
        return;
    if (row->dry_last_n > 0 && (uint32_t)row->dry_last_n < end)
        from = end - (uint32_t)row->dry_last_n;
    int32_t *longest = in->ids;
    for (uint32_t p = from; p < end; p++)
        if ((uint32_t)in->history[p] < in->n_vocab)
            longest[in->history[p]] = 0;
    for (uint32_t p = from; p + 1 < end; p++) {
        int32_t next = in->history[p + 1];
        if ((uint32_t)next >= in->n_vocab)
            continue;
        int32_t length = sampling_dry_match(in, from, p);
        if (length > longest[next])
            longest[next] = length;
    }
    for (uint32_t p = from; p < end; p++) {
        int32_t id = in->history[p];
        if ((uint32_t)id >= in->n_vocab || longest[id] < row->dry_allowed_length || longest[id] < 1)
            continue;
        float weight = row->dry_multiplier *
                       powf(row->dry_base, (float)(longest[id] - row->dry_allowed_length));
        in->work[id] = sampling_bounded(in->work[id] - sampling_bounded(weight));
        longest[id] = 0; /* each token once */
    }
}

/* Steps 1 to 3, into work. Returns an enum sampling_failure. */
SLUICE_DEVICE static inline int32_t sampling_prepare(const struct sampling_row *row,
                                                     const struct sampling_input *in)
{
    float *work = in->work;
    float best = -INFINITY;
    for (uint32_t i = 0; i < in->n_vocab; i++) {
        work[i] = sampling_bounded(in->logits[i]);
        best = work[i] > best ? work[i] : best;
    }
    if (!(best > -INFINITY))
        return SAMPLING_NO_LOGIT;
    for (uint32_t j = row->bias_offset; j - row->bias_offset < row->n_biases; j++) {
        int32_t id = in->bias_ids[j];
        if ((uint32_t)id < in->n_vocab)
            work[id] = sampling_bounded(work[id] + in->bias_values[j]);
    }
    if (in->mask)
        for (uint32_t i = 0; i < in->n_vocab; i++)
            if (!(in->mask[i >> 5] >> (i & 31) & 1))
                work[i] = -INFINITY;
    sampling_penalize(row, in);
    sampling_dry(row, in);
    return SAMPLING_DRAWN;
}

SLUICE_DEVICE static inline int32_t sampling_argmax(const float *work, uint32_t n_vocab)
{
    float best = -INFINITY;
    int32_t token = -1;
    for (uint32_t i = 0; i < n_vocab; i++)
        if (work[i] > best) {
            best = work[i];
            token = (int32_t)i;
        }
    return token;
}

/* All possible tokens, with the bounded heap of the first top k built in where that is the first
 * cut; ids in no particular order. */
SLUICE_DEVICE static inline struct sampling_set sampling_candidates(const struct sampling_row *row,
                                                                    const struct sampling_input *in)
{
    uint32_t order = row->order ? row->order : SAMPLING_ORDER_DEFAULT;
    if ((order & 15) == STAGE_TOP_N_SIGMA && !(row->top_n_sigma > 0))
        order >>= 4;
    int first_k = row->mirostat == 0 && (order & 15) == STAGE_TOP_K;
    struct sampling_set set;
    set.work = in->work;
    set.ids = in->ids;
    set.n = sampling_top_k(in->work, in->n_vocab, first_k ? row->top_k : 0, in->ids);
    set.best = -INFINITY;
    set.temperature = 1.0f;
    for (uint32_t j = 0; j < set.n; j++)
        set.best = set.work[set.ids[j]] > set.best ? set.work[set.ids[j]] : set.best;
    return set;
}

SLUICE_DEVICE static inline void sampling_cut(const struct sampling_row *row,
                                              const struct sampling_input *in, uint64_t key,
                                              struct sampling_set *set)
{
    if (row->mirostat) {
        set->temperature = row->temperature;
        if (row->mirostat == 1)
            sampling_cut_top_k(set, sampling_mirostat_k(set, in->n_vocab, row->mirostat_mu));
        else
            sampling_cut_surprise(set, row->mirostat_mu);
        return;
    }
    uint32_t order = row->order ? row->order : SAMPLING_ORDER_DEFAULT;
    for (uint32_t i = 0; i < SAMPLING_ORDER_MAX && (order & 15); i++, order >>= 4)
        sampling_stage_run(row, order & 15, key, set);
}

/* Steps 4 to 11; -1 if no token is possible. *mu becomes mirostat's for the next draw. */
SLUICE_DEVICE static inline int32_t sampling_pick(const struct sampling_row *row,
                                                  const struct sampling_input *in, float *mu)
{
    uint64_t key = sampling_key(row->seed, in->position);
    struct sampling_set set = sampling_candidates(row, in);
    *mu = row->mirostat_mu;
    sampling_cut(row, in, key, &set);
    float highest = -INFINITY;
    int32_t token = -1;
    for (uint32_t j = 0; j < set.n; j++) {
        float score = (set.work[set.ids[j]] - set.best) / row->temperature;
        if (score + SAMPLING_NOISE_MAX < highest) /* no noise could make it win */
            continue;
        score += sampling_noise(key, set.ids[j]);
        if (score > highest || (score == highest && set.ids[j] < token)) {
            highest = score;
            token = set.ids[j];
        }
    }
    if (row->mirostat && token >= 0) {
        double share = (double)sampling_weight(&set, token) / sampling_total(&set);
        *mu -= row->mirostat_eta * (-log2f((float)share) - row->mirostat_tau);
    }
    return token;
}

/* log-softmax of the raw logits at the drawn token and at the n_top highest. */
SLUICE_DEVICE static inline void sampling_logprobs(const float *logits, uint32_t n_vocab,
                                                   uint32_t n_top, struct sampling_draw *draw)
{
    struct sampling_top *top = draw->top;
    uint32_t n = 0, most = n_top < SAMPLING_TOP_MAX ? n_top : SAMPLING_TOP_MAX;
    float best = -INFINITY;
    for (uint32_t i = 0; i < n_vocab; i++) {
        float x = sampling_bounded(logits[i]);
        best = x > best ? x : best;
        if (n < most)
            n++;
        else if (most == 0 || !(x > top[n - 1].logprob))
            continue;
        uint32_t at = n - 1;
        for (; at > 0 && x > top[at - 1].logprob; at--)
            top[at] = top[at - 1];
        top[at].token = (int32_t)i;
        top[at].logprob = x;
    }
    double sum = 0;
    for (uint32_t i = 0; i < n_vocab; i++)
        sum += (double)expf(sampling_bounded(logits[i]) - best);
    float log_sum = logf((float)sum);
    for (uint32_t j = 0; j < n; j++)
        top[j].logprob = top[j].logprob - best - log_sum;
    draw->logprob = sampling_bounded(logits[draw->token]) - best - log_sum;
    draw->n_top = n;
}

/* Draws one token. out is filled in whatever happens; work and ids hold garbage afterwards. */
SLUICE_DEVICE static inline void sampling_draw_row(const struct sampling_row *row,
                                                   const struct sampling_input *in,
                                                   struct sampling_draw *out)
{
    out->token = -1;
    out->logprob = 0;
    out->n_top = 0;
    out->mirostat_mu = row->mirostat_mu;
    out->failed = sampling_prepare(row, in);
    if (out->failed != SAMPLING_DRAWN)
        return;
    out->token = row->temperature > 0 ? sampling_pick(row, in, &out->mirostat_mu)
                                      : sampling_argmax(in->work, in->n_vocab);
    if (out->token < 0)
        out->failed = SAMPLING_ALL_MASKED;
    else if (row->want_logprob)
        sampling_logprobs(in->logits, in->n_vocab, row->n_top_logprobs, out);
}

#endif

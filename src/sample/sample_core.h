/*
 * sample_core: drawing one token from one row of logits, as plain functions over plain memory.
 *
 * This header is the whole algorithm. It compiles as C11, as C++ and, for one thread per row, as
 * CUDA device code (SLUICE_DEVICE), so that every backend draws by the same rules. It allocates
 * nothing, keeps no state, and its result depends on its arguments only. sample.h says what the
 * parameters mean and wraps this for the host.
 *
 * The steps, in this order:
 *   1 bias        added to the raw logits
 *   2 mask        bit i % 32 of word i / 32 set = token i allowed; others become impossible
 *   3 penalties   repeat (divide a positive logit, multiply a negative one), then frequency x count
 *                 and presence, subtracted
 *   - temperature <= 0: the highest logit wins, the lowest id among equals; the rest is skipped
 *   4 top_k       the k highest logits (lower ids win ties)
 *   5 top_p       the smallest set of the most probable whose share of step 4's set is >= top_p
 *   6 min_p       those with at least min_p times the probability of the most probable one
 *   7 temperature and the draw
 *
 * Why temperature comes last (as in llama.cpp and Ollama, unlike OpenAI and vLLM): the cuts then
 * judge by the model's own distribution, so a high temperature varies the choice among plausible
 * tokens and never lets implausible ones in. At temperature 1 both orders are the same.
 * Steps 5 and 6 each keep a prefix of the tokens by falling logit, so they may be done in either
 * order as long as top_p's total is that of step 4's set; min_p goes first here, since it is cheap.
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

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __CUDACC__
#define SLUICE_DEVICE __host__ __device__
#else
#define SLUICE_DEVICE
#endif

#define SAMPLING_TOP_MAX 20

/* Parameters of one row: fixed size and pointer-free, so that it travels inside a sample step.
 * Assumed validated (sampling_validate); wild values give a wild token, never a fault. */
struct sampling_row {
    uint64_t seed;
    float temperature;    /* <= 0: greedy */
    int32_t top_k;        /* <= 0: off */
    float top_p;          /* >= 1: off */
    float min_p;          /* <= 0: off */
    float repeat_penalty; /* 1: off */
    float presence_penalty;
    float frequency_penalty;
    int32_t repeat_last_n;   /* -1: whole context, 0: off */
    uint32_t n_prompt;       /* history at and after this position was generated */
    uint32_t want_logprob;   /* non-zero: fill in logprob and top */
    uint32_t n_top_logprobs; /* <= SAMPLING_TOP_MAX; only with want_logprob */
    uint32_t bias_offset;    /* first pair in the arrays of sampling_input */
    uint32_t n_biases;
    uint32_t reserved;
};

/* What a row is drawn from. All pointers borrowed for the call. */
struct sampling_input {
    const float *logits;     /* [n_vocab], not modified */
    const uint32_t *mask;    /* [ceil(n_vocab / 32)]; NULL: all allowed */
    const int32_t *bias_ids; /* the step's arrays; this row's pairs start at bias_offset */
    const float *bias_values;
    const int32_t *history; /* [position] tokens of the sequence; entries outside 0..n_vocab-1 are
                               ignored. Read only when a penalty is on */
    uint32_t position;      /* of the token being drawn */
    uint32_t n_vocab;       /* <= INT32_MAX */
    float *work;            /* [n_vocab] scratch, any content */
    int32_t *ids;           /* [n_vocab] scratch, any content */
};

enum sampling_failure {
    SAMPLING_DRAWN = 0,
    SAMPLING_NO_LOGIT,   /* every logit is NaN or -infinity */
    SAMPLING_ALL_MASKED, /* no token is left by mask and biases */
};

struct sampling_top {
    int32_t token;
    float logprob;
};

struct sampling_draw {
    int32_t token;  /* -1 if failed */
    int32_t failed; /* enum sampling_failure */
    float logprob;  /* log-softmax of the raw logits (before step 1) at token; with want_logprob */
    uint32_t n_top;
    struct sampling_top top[SAMPLING_TOP_MAX]; /* of the raw logits, falling; lower ids first */
};

/* Counter-based randomness: the finaliser of splitmix64 (Steele, Lea, Flood 2014) over a key made
 * of seed and position. Tokens of one row use consecutive outputs of the stream that key starts. */
SLUICE_DEVICE static inline uint64_t sampling_mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

#define SAMPLING_GOLDEN 0x9e3779b97f4a7c15u

SLUICE_DEVICE static inline uint64_t sampling_key(uint64_t seed, uint32_t position)
{
    uint64_t stream = sampling_mix(seed + SAMPLING_GOLDEN);
    return sampling_mix(stream + ((uint64_t)position + 1) * SAMPLING_GOLDEN);
}

/* Standard Gumbel noise of one token, within [-2.9, SAMPLING_NOISE_MAX]. The uniform is taken close
 * to 0 for large noise, where float keeps its relative precision. */
#define SAMPLING_NOISE_MAX 23.0f

SLUICE_DEVICE static inline float sampling_noise(uint64_t key, int32_t id)
{
    uint64_t bits = sampling_mix(key + ((uint64_t)(uint32_t)id + 1) * SAMPLING_GOLDEN) >> 32;
    float uniform = ((float)(uint32_t)bits + 0.5f) * 2.3283064365386963e-10f;
    if (uniform > 0.99999994f) /* the largest float below 1 */
        uniform = 0.99999994f;
    return -logf(-log1pf(-uniform));
}

/* Any float as a usable logit. */
SLUICE_DEVICE static inline float sampling_bounded(float x)
{
    if (!(x > -INFINITY)) /* NaN too */
        return -INFINITY;
    return x > FLT_MAX ? FLT_MAX : x;
}

/* Step 3. ids serves as [n_vocab] counters, of which only those named by the history are touched. */
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

/* The one order of tokens: by falling logit, then by rising id. */
SLUICE_DEVICE static inline int sampling_ahead(const float *work, int32_t a, int32_t b)
{
    return work[a] > work[b] || (work[a] == work[b] && a < b);
}

/* Restores the heap below `at`. worst != 0: the last in order is at the root, else the first. */
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

/* Step 4: the possible tokens, or the k first of them, into ids in no particular order. A bounded
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

/* Step 5 over ids[0..n), given the total of step 4's set: the first tokens in order until their
 * share reaches top_p. They end up in ids[result..n). */
SLUICE_DEVICE static inline uint32_t sampling_top_p(const float *work, int32_t *ids, uint32_t n,
                                                    float best, double wanted)
{
    double sum = 0;
    sampling_heapify(work, ids, n, 0);
    while (n > 0) {
        int32_t id = ids[0];
        ids[0] = ids[--n];
        ids[n] = id;
        if (n > 1)
            sampling_sift(work, ids, n, 0, 0);
        sum += (double)expf(work[id] - best);
        if (sum >= wanted)
            break;
    }
    return n;
}

/* Steps 4 to 7; -1 if no token is possible. */
SLUICE_DEVICE static inline int32_t sampling_pick(const struct sampling_row *row,
                                                  const struct sampling_input *in)
{
    const float *work = in->work;
    int32_t *ids = in->ids;
    uint32_t first = 0, n = sampling_top_k(work, in->n_vocab, row->top_k, ids);
    float best = -INFINITY;
    for (uint32_t j = 0; j < n; j++)
        best = work[ids[j]] > best ? work[ids[j]] : best;
    double total = 0;
    if (row->top_p < 1.0f)
        for (uint32_t j = 0; j < n; j++)
            total += (double)expf(work[ids[j]] - best);
    if (row->min_p > 0) {
        float least = logf(row->min_p);
        uint32_t kept = 0;
        for (uint32_t j = 0; j < n; j++)
            if (work[ids[j]] - best >= least)
                ids[kept++] = ids[j];
        n = kept;
    }
    if (row->top_p < 1.0f)
        first = sampling_top_p(work, ids, n, best, (double)row->top_p * total);

    uint64_t key = sampling_key(row->seed, in->position);
    float highest = -INFINITY;
    int32_t token = -1;
    for (uint32_t j = first; j < n; j++) {
        float score = (work[ids[j]] - best) / row->temperature;
        if (score + SAMPLING_NOISE_MAX < highest) /* no noise could make it win */
            continue;
        score += sampling_noise(key, ids[j]);
        if (score > highest || (score == highest && ids[j] < token)) {
            highest = score;
            token = ids[j];
        }
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
    out->failed = sampling_prepare(row, in);
    if (out->failed != SAMPLING_DRAWN)
        return;
    out->token =
        row->temperature > 0 ? sampling_pick(row, in) : sampling_argmax(in->work, in->n_vocab);
    if (out->token < 0)
        out->failed = SAMPLING_ALL_MASKED;
    else if (row->want_logprob)
        sampling_logprobs(in->logits, in->n_vocab, row->n_top_logprobs, out);
}

#endif

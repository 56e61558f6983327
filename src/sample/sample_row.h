/*
 * What a draw is made from and what comes out, and the randomness of it: plain structs and functions
 * that compile as C11, as C++ and as CUDA device code. See sample_core.h for the algorithm.
 */
#ifndef SLUICE_SAMPLE_SAMPLE_ROW_H
#define SLUICE_SAMPLE_SAMPLE_ROW_H

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
    uint32_t order;        /* four bits a stage, the first in the lowest; 0: the default order */
    float typical_p;       /* <= 0, >= 1: off */
    float top_n_sigma;     /* <= 0: off */
    float xtc_probability; /* <= 0: off */
    float xtc_threshold;   /* > 0.5: off */
    float dry_multiplier;  /* <= 0: off */
    float dry_base;
    int32_t dry_allowed_length;
    int32_t dry_last_n; /* -1: whole context, 0: off */
    int32_t mirostat;   /* 0: off; 1, 2: that version, in place of all cuts */
    float mirostat_tau, mirostat_eta;
    float mirostat_mu; /* the surprise allowed now, in bits: 2 tau at first, then the last draw's */
    uint32_t reserved;
};

/* The cuts, by the numbers that sampling_row.order is made of. Temperature is always applied: last
 * where the order does not name it. Other stages happen only where the order names them. */
enum sampling_stage {
    STAGE_END,
    STAGE_TOP_N_SIGMA,
    STAGE_TOP_K,
    STAGE_TYPICAL_P,
    STAGE_TOP_P,
    STAGE_MIN_P,
    STAGE_XTC,
    STAGE_TEMPERATURE,
    SAMPLING_STAGES
};
#define SAMPLING_ORDER_MAX 8
/* top_n_sigma, top_k, typical_p, top_p, min_p, xtc, temperature */
#define SAMPLING_ORDER_DEFAULT 0x7654321u

/* What a row is drawn from. All pointers borrowed for the call. */
struct sampling_input {
    const float *logits;      /* [n_vocab], not modified */
    const uint32_t *mask;     /* [ceil(n_vocab / 32)]; NULL: all allowed */
    const uint32_t *breakers; /* the same form: tokens that no repetition reaches across (DRY) */
    const int32_t *bias_ids;  /* the step's arrays; this row's pairs start at bias_offset */
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
    float mirostat_mu; /* for the next draw of this sequence; unchanged without mirostat */
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
#define SAMPLING_XTC    0x5bf03635dd81d6c9u /* sets the one draw of xtc apart from the tokens' */

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

#endif

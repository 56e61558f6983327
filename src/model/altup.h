/*
 * AltUp (Baykal et al., "Alternating Updates for Efficient Transformers", 2023) as Gemma 3n has it:
 * several residual streams, of which a layer works on one. The layer first predicts all streams from
 * all, by coefficients that a small router reads from the active one; what it changed in the active
 * stream then corrects all.
 *
 *     predicted = streams + C(router(active)) streams
 *     streams = predicted + (1 + c(router(new))) (new - predicted[active])
 *
 * Internal to model/.
 */
#ifndef SLUICE_MODEL_ALTUP_H
#define SLUICE_MODEL_ALTUP_H

#include "model/build.h"

#define ALTUP_STREAMS_MAX 16

struct altup {
    uint32_t n, active;
    int32_t streams, predicted, routed, modal, coefs, change, ones; /* buffers; ones: a constant */
};

/* Reads the sizes and makes the buffers. */
void altup_plan(struct build *b, struct altup *a);
/* Streams from the embedding in x. */
void altup_open(struct build *b, const struct altup *a);
/* The active stream as predicted for the layer. */
struct view altup_predict(struct build *b, const struct altup *a, uint32_t layer);
/* All streams corrected by the layer's result in x. */
void altup_correct(struct build *b, const struct altup *a, uint32_t layer);
struct view altup_stream(struct build *b, const struct altup *a, uint32_t index);
/* The streams' mean into x. */
void altup_close(struct build *b, const struct altup *a);

#endif

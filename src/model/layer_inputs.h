/*
 * A second embedding that layers read one slice each of, as the small Gemma models have it: a token's
 * own vector per layer, mixed with a projection of its embedding. Internal to model/.
 */
#ifndef SLUICE_MODEL_LAYER_INPUTS_H
#define SLUICE_MODEL_LAYER_INPUTS_H

#include "model/build.h"

struct layer_inputs {
    uint32_t each;            /* columns of one layer's slice; 0: the model has none */
    int32_t all, gate, value; /* buffers: [n_layers * each], [each], [width] */
};

/* The slices of all layers, from the embedding in x. */
void build_layer_inputs(struct build *b, struct layer_inputs *inputs);
/* norm(W (act(gate of in) * the layer's slice)), a view that lives until the next call. */
struct view build_layer_input(struct build *b, const struct layer_inputs *inputs, uint32_t layer,
                              struct view in);
/* view *= factor; factors [n] or one for all columns. */
void build_scale(struct build *b, const char *label, struct view view, const float *factors,
                 uint32_t n);

#endif

/*
 * Blocks with a state: convolution and state space recurrence in the forms of Mamba 1 and 2, and the
 * groups that hold their states. Written with build.h, for architecture files; internal to model/.
 */
#ifndef SLUICE_MODEL_MAMBA_H
#define SLUICE_MODEL_MAMBA_H

#include "model/build.h"

/* Where a layer's two states lie. */
struct layer_states {
    uint32_t conv_group, conv_layer;
    uint32_t state_group, state_layer;
};

/* Room for one more layer with states of these sizes. */
struct layer_states build_states(struct build *b, uint32_t conv_floats, uint32_t state_floats);
/* Depthwise convolution by role.weight [width, taps], with its bias if there is one, then SiLU. */
void build_causal_conv(struct build *b, int layer, const char *role, struct view in,
                       struct view out, uint32_t taps, const struct layer_states *states);
/* A of a recurrence as a constant of n values: GGUF stores it, HF the logarithm of -A. */
int32_t build_decay(struct build *b, int layer, const char *role, uint32_t n);

struct mamba {
    uint32_t inner, heads, head_dim, groups, state, taps;
    uint32_t dt_rank; /* Mamba 1; 0: Mamba 2 */
    float dt_min, dt_max;
    bool norm_first; /* Mamba 2's norm is taken before the gate */
    float scales[5]; /* of the input projection's parts z, x, B, C, dt; all 1 unless set */
    float out_scale;
    int32_t projected, convolved, low, dt, y; /* buffers, made by mamba_plan() */
};

/* Reads sizes by the keys that GGUF and the families of configs have; false after an error. */
bool mamba_plan(struct build *b, struct mamba *m, bool first_version);
struct layer_states mamba_states(struct build *b, const struct mamba *m);
/* in -> mixer -> out = residual + its output. Roles "ssm_in", "ssm_conv1d", "ssm_a", ... */
void build_mamba2(struct build *b, const struct mamba *m, uint32_t layer,
                  const struct layer_states *states, struct view in, struct view out,
                  struct view residual);
void build_mamba1(struct build *b, const struct mamba *m, uint32_t layer,
                  const struct layer_states *states, struct view in, struct view out,
                  struct view residual);

/* HF's names of a Mamba 2 mixer's tensors. */
#define MIXER_NAMES(mixer)                                                                         \
    {"ssm_in", mixer ".in_proj"}, {"ssm_conv1d", mixer ".conv1d"}, {"ssm_a", mixer ".A_log"},      \
        {"ssm_d", mixer ".D"}, {"ssm_dt", mixer ".dt"}, {"ssm_norm", mixer ".norm"},               \
    {                                                                                              \
        "ssm_out", mixer ".out_proj"                                                               \
    }

#endif

/* What a checkpoint says about pooling hidden states into one vector. Internal to model/. */
#ifndef SLUICE_MODEL_POOLING_H
#define SLUICE_MODEL_POOLING_H

#include "format/checkpoint.h"
#include "model/model.h"

/* MODEL_POOLING_NONE, or the mean for bidirectional models, where it says nothing. A kind that we do
 * not know is STATUS_UNSUPPORTED: its vectors would be wrong. */
enum status pooling_read(struct checkpoint *checkpoint, struct str gguf_prefix, bool bidirectional,
                         enum model_pooling *out, struct error *err);

#endif

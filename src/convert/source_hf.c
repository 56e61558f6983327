/* Folders. */
#include "convert/source.h"

enum status source_from_hf(struct source *source, struct error *err)
{
    return error_set(err, STATUS_UNSUPPORTED,
                     "%s: a Hugging Face folder, which quantize cannot convert yet: start from a "
                     "GGUF file of the model",
                     checkpoint_path(source->checkpoint));
}

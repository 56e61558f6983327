/* The OpenAI dialect's files, to each other. */
#ifndef SLUICE_API_OPENAI_H
#define SLUICE_API_OPENAI_H

#include <jansson.h>

#include "api/api.h"

/* openai_messages.c: fields of chat requests (struct field). */
bool openai_read_messages(struct api_call *call, const char *name, const json_t *value,
                          struct api_error *error);
bool openai_read_tools(struct api_call *call, const char *name, const json_t *value,
                       struct api_error *error);
bool openai_read_tool_choice(struct api_call *call, const char *name, const json_t *value,
                             struct api_error *error);
bool openai_read_parallel(struct api_call *call, const char *name, const json_t *value,
                          struct api_error *error);

/* openai_request.c */
bool openai_parse(struct api_call *call, bool chat, struct str body, struct api_error *error);
bool openai_parse_embeddings(struct api_call *call, struct str body, struct api_error *error);
/* openai_answer.c */
void openai_error_body(const struct api_error *error, struct buf *out);

#endif

/*
 * A Hugging Face fixture with a changed config.json, in a scratch folder: what tests of
 * configs open. The weights are a link to the fixture's.
 */
#ifndef SLUICE_TESTS_MODEL_FOLDER_H
#define SLUICE_TESTS_MODEL_FOLDER_H

/* fixture: the name of a committed one, or the absolute path of any. `changes`: a JSON object; its
 * members replace the config's, null removes one. Returns the folder's path, in static storage until
 * the next call. */
const char *model_folder(const char *fixture, const char *changes);
/* Writes a text file into that folder; `name` may be in a folder of its own. */
void model_folder_file(const char *name, const char *text);

#endif

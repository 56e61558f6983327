// The official OpenAI client, unchanged, against sluice serve on the demo model.
import assert from "node:assert/strict";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2] + "/v1", apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "Hello" }];
const tools = [
  {
    type: "function",
    function: {
      name: "get_weather",
      description: "Get the weather",
      parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
    },
  },
];

const models = await client.models.list();
assert.equal(models.data[0].object, "model");
assert.equal((await client.models.retrieve(models.data[0].id)).id, models.data[0].id);

const whole = await client.chat.completions.create({ model: "gpt-4o", messages, temperature: 0 });
assert.equal(whole.choices[0].message.content, "Hello! How can I help you?");
assert.equal(whole.choices[0].finish_reason, "stop");
assert.equal(whole.usage.total_tokens, whole.usage.prompt_tokens + whole.usage.completion_tokens);

let text = "";
let usage = null;
const stream = await client.chat.completions.create({
  model: "gpt-4o",
  messages,
  temperature: 0,
  stream: true,
  stream_options: { include_usage: true },
});
for await (const chunk of stream) {
  text += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
assert.equal(text, whole.choices[0].message.content);
assert.deepEqual(usage, whole.usage);

// The client's own accumulator of streams, with a tool call in it.
const runner = client.chat.completions.stream({
  model: "gpt-4o",
  messages: [{ role: "user", content: "What is the weather in Paris?" }],
  temperature: 0,
  tools,
});
const called = await runner.finalChatCompletion();
assert.equal(called.choices[0].finish_reason, "tool_calls");
assert.equal(called.choices[0].message.tool_calls[0].function.name, "get_weather");
assert.equal(JSON.parse(called.choices[0].message.tool_calls[0].function.arguments).city, "Paris");

const completion = await client.completions.create({
  model: "gpt-4o",
  prompt: ["Once upon", "A fox"],
  max_tokens: 4,
  logprobs: 2,
});
assert.equal(completion.choices.length, 2);
assert.equal(completion.choices[0].logprobs.tokens.length, 4);

const vectors = await client.embeddings.create({ model: "gpt-4o", input: ["a fox", "the sea"] });
assert.equal(vectors.data.length, 2);
assert.ok(Math.abs(Math.hypot(...vectors.data[0].embedding) - 1) < 1e-3);

const aborted = await client.chat.completions.create({
  model: "gpt-4o",
  messages,
  stream: true,
});
aborted.controller.abort();

await assert.rejects(
  client.chat.completions.create({ model: "gpt-4o", messages, temperature: -1 }),
  (error) => error instanceof OpenAI.BadRequestError && error.param === "temperature",
);
await assert.rejects(
  client.chat.completions.create({ model: "no-such-model", messages }),
  (error) => error instanceof OpenAI.NotFoundError && error.code === "model_not_found",
);
console.log("openai client: models, chat, streams, tools, completions, embeddings, errors: ok");

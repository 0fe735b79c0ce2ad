// Vercel's AI SDK, openai-node, and the SDKs of Anthropic and Ollama, against the server at BMQWEN_URL.
import assert from "node:assert/strict";
import { test } from "node:test";

import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import Anthropic from "@anthropic-ai/sdk";
import { generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { Ollama } from "ollama";
import OpenAI from "openai";
import { z } from "zod";

const url = process.env.BMQWEN_URL;
const listed = await (await fetch(`${url}/v1/models`)).json();
const model = listed.data[0].id;
const question = "What is the weather in Paris?";

const models = {
  chat: createOpenAICompatible({ name: "bmqwen", baseURL: `${url}/v1` })(model),
  responses: createOpenAI({ baseURL: `${url}/v1`, apiKey: "none" })(model),
  anthropic: createAnthropic({ baseURL: `${url}/v1`, apiKey: "none" })(model),
};

function weather(cities) {
  return tool({
    description: "Get the current weather of a city",
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => {
      cities.push(city);
      return `It is sunny in ${city}.`;
    },
  });
}

for (const [kind, languageModel] of Object.entries(models)) {
  test(`AI SDK over ${kind}: a tool in two steps`, async () => {
    const cities = [];
    const { text, steps } = await generateText({
      model: languageModel,
      temperature: 0,
      prompt: question,
      tools: { getWeather: weather(cities) },
      stopWhen: stepCountIs(3),
    });
    assert.equal(cities[0], "Paris");
    assert.ok(steps.length >= 2);
    assert.ok(text || steps.at(-1).toolCalls.length);
  });

  test(`AI SDK over ${kind}: a stream with a call`, async () => {
    const cities = [];
    const result = streamText({
      model: languageModel,
      temperature: 0,
      prompt: question,
      tools: { getWeather: weather(cities) },
    });
    const kinds = new Set();
    for await (const part of result.fullStream) {
      assert.notEqual(part.type, "error", JSON.stringify(part));
      kinds.add(part.type);
    }
    assert.ok(kinds.has("tool-call"));
    assert.deepEqual(cities, ["Paris"]);
  });

  test(`AI SDK over ${kind}: an object`, async () => {
    const { object } = await generateObject({
      model: languageModel,
      temperature: 0,
      schema: z.object({ name: z.string(), country: z.string() }),
      prompt: "Paris is the capital of France. Answer in JSON with name and country.",
    });
    assert.equal(typeof object.name, "string");
  });
}

test("openai-node: runTools", async () => {
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none" });
  const cities = [];
  const runner = client.chat.completions.runTools({
    model,
    temperature: 0,
    messages: [{ role: "user", content: question }],
    tools: [
      {
        type: "function",
        function: {
          name: "getWeather",
          description: "Get the current weather of a city",
          parse: JSON.parse,
          parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
          function: ({ city }) => {
            cities.push(city);
            return `It is sunny in ${city}.`;
          },
        },
      },
    ],
  }, { maxChatCompletions: 2 });
  // A small model may call for ever; each call was one.
  await runner.done();
  assert.equal(cities[0], "Paris");
});

test("openai-node: responses", async () => {
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none" });
  const first = await client.responses.create({ model, input: "Say hi.", max_output_tokens: 20 });
  assert.ok(first.output_text);
  const second = await client.responses.create({
    model,
    input: "Again.",
    previous_response_id: first.id,
    max_output_tokens: 20,
  });
  assert.ok(second.usage.input_tokens > first.usage.input_tokens);
});

test("Anthropic's SDK: a stream", async () => {
  const client = new Anthropic({ baseURL: url, apiKey: "none" });
  const stream = client.messages.stream({
    model,
    max_tokens: 100,
    messages: [{ role: "user", content: question }],
    tools: [
      {
        name: "getWeather",
        input_schema: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
      },
    ],
    tool_choice: { type: "tool", name: "getWeather" },
  });
  const message = await stream.finalMessage();
  assert.equal(message.stop_reason, "tool_use");
  assert.equal(typeof message.content[0].input.city, "string");
});

test("Ollama's client: a stream", async () => {
  const client = new Ollama({ host: url });
  const parts = [];
  const stream = await client.chat({
    model,
    messages: [{ role: "user", content: "Say hi." }],
    stream: true,
    options: { num_predict: 20 },
  });
  for await (const part of stream) parts.push(part);
  assert.ok(parts.at(-1).done);
});

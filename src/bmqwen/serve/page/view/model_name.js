// A model's name as people write it.

const PARTS = { qwen: "Qwen", deepseek: "DeepSeek", coder: "Coder", instruct: "Instruct", chat: "Chat", distill: "Distill", base: "Base", math: "Math", thinking: "Thinking" };

/** "qwen2.5-coder-0.5b-instruct-q4_k_m" as "Qwen2.5-Coder-0.5B-Instruct"; a name with capitals is left as it is. */
export function modelName({ model }) {
  const bare = model.replace(/(?:[-._](?:q\d\w*|iq\d\w*|f16|f32|bf16|fp16|gguf))+$/iu, "");
  if (/[A-Z]/u.test(bare)) return bare;
  return bare
    .split("-")
    .map((part) => {
      const word = /^([a-z]+)([\d.]*)$/u.exec(part);
      if (word && PARTS[word[1]]) return PARTS[word[1]] + word[2];
      return /^\d+(?:\.\d+)?[bm]$/u.test(part) ? part.toUpperCase() : part;
    })
    .join("-");
}

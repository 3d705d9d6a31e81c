// Classify the lines of standard input with Transformers.js, from a local directory alone.
//
//   node classify.mjs DIR DTYPE < texts      DTYPE: fp32, fp16 or int8
//
// Prints one line of JSON: {"variant", "rows": [{"text", "scores": {label: probability}}]}.
import { readFileSync } from "node:fs";
import { basename, dirname, resolve } from "node:path";
import { env, pipeline } from "@huggingface/transformers";

const [directory, dtype] = process.argv.slice(2);
if (!directory || !dtype) {
  console.error("usage: node classify.mjs DIR DTYPE < texts");
  process.exit(2);
}

// A model is named by its folder below localModelPath; nothing may come from anywhere else.
const folder = resolve(directory);
env.allowRemoteModels = false;
env.allowLocalModels = true;
env.useFSCache = false;
env.localModelPath = dirname(folder);

const texts = readFileSync(0, "utf8").split("\n").filter((line) => line.trim() !== "");
const classify = await pipeline("text-classification", basename(folder), { dtype, device: "cpu" });
const rows = [];
// One text at a time: INT8 scales follow the whole batch, so a batch would change the scores.
for (const text of texts) {
  const answers = await classify(text, { top_k: null });
  rows.push({ text, scores: Object.fromEntries(answers.map((a) => [a.label, a.score])) });
}
console.log(JSON.stringify({ variant: dtype, rows }));

// Runs a ladder file in ONNX Runtime's WASM build: node run.mjs FILE, with {x, shape, widths} as JSON on standard
// input; prints the outputs by width as JSON.
import { readFileSync } from "node:fs";
import * as ort from "onnxruntime-web";

ort.env.wasm.numThreads = 1;
const asked = JSON.parse(readFileSync(0, "utf8"));
const session = await ort.InferenceSession.create(readFileSync(process.argv[2]), { executionProviders: ["wasm"] });
const input = session.inputNames.find((name) => name !== "width");
const x = new ort.Tensor("float32", Float32Array.from(asked.x), asked.shape);
const found = [];
for (const width of asked.widths) {
  const result = await session.run({ [input]: x, width: new ort.Tensor("float32", [width], [1]) });
  found.push(Array.from(result[session.outputNames[0]].data));
}
console.log(JSON.stringify(found));

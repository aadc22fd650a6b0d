/** The adapter kit on LoRA; LoRA and DoRA over every weight format too. */
import { testAdapter } from "@peftjs/conformance"
import { backends, required } from "@peftjs/tests/backends"
import { weights } from "@peftjs/tests/formats"
import { describe, it } from "vitest"
import { lora } from "../src/index.ts"

const runner = { describe, it, backends, required }
const names = ["lora_A.weight", "lora_B.weight", "lora_embedding_A", "lora_embedding_B"]
testAdapter(lora({ r: 4 }), { ...runner, weights, savedAs: names })
testAdapter(lora({ r: 3, alpha: 5, dropout: 0.2, rslora: true, init: "gaussian" }), {
  ...runner,
  name: "lora, all options",
})
testAdapter(lora({ init: false, rankPattern: { up_proj: 2 }, alphaPattern: { "layers\\.0\\..*": 3 } }), {
  ...runner,
  name: "lora, patterns",
  identity: false,
})
testAdapter(lora({ r: 3, alpha: 6, dora: true }), {
  ...runner,
  name: "lora, DoRA",
  weights,
  detaches: ["A", "B"],
  savedAs: [...names, "lora_magnitude_vector"],
})
testAdapter(lora({ r: 2, alpha: 5, dora: true, dropout: 0.1, rslora: true }), {
  ...runner,
  name: "lora, DoRA with dropout",
  detaches: ["A", "B"],
})
testAdapter(lora({ r: 2, loraBias: true }), {
  ...runner,
  name: "lora, bias of B",
  targetModules: ["up_proj", "down_proj"],
  savedAs: ["lora_A.weight", "lora_B.weight", "lora_B.bias"],
})

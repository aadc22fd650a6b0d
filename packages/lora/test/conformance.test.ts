/** The adapter kit on LoRA. */
import { cpu } from "@peftjs/backend-cpu"
import { fakeBackend, testAdapter } from "@peftjs/conformance"
import { describe, it } from "vitest"
import { lora } from "../src/index.ts"

const runner = { describe, it, backends: { fake: fakeBackend, cpu } }
testAdapter(lora({ r: 4 }), runner)
testAdapter(lora({ r: 3, alpha: 5, dropout: 0.2, rslora: true, init: "gaussian" }), {
  ...runner,
  name: "lora, all options",
})
testAdapter(lora({ init: false, rankPattern: { up_proj: 2 }, alphaPattern: { "layers\\.0\\..*": 3 } }), {
  ...runner,
  name: "lora, patterns",
  identity: false,
})
testAdapter(lora({ r: 3, alpha: 6, dora: true }), { ...runner, name: "lora, DoRA", detaches: ["A", "B"] })
testAdapter(lora({ r: 2, alpha: 5, dora: true, dropout: 0.1, rslora: true }), {
  ...runner,
  name: "lora, DoRA with dropout",
  detaches: ["A", "B"],
})
testAdapter(lora({ r: 2, loraBias: true }), {
  ...runner,
  name: "lora, bias of B",
  targetModules: ["up_proj", "down_proj"],
})

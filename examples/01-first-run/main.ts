/** The whole of a fine-tuning: a base, an adapter, the loss on what was not learnt from, before and after. `npx tsx main.ts [folder]` */
import { join } from "node:path"
import { cpu } from "@peftjs/backend-cpu/node"
import { adapt } from "@peftjs/core"
import { saveAdapter } from "@peftjs/core/node"
import { lora } from "@peftjs/lora"
import { loadCausalLM } from "@peftjs/models/node"
import { evaluate, train } from "@peftjs/train"
import { chat } from "@peftjs/train/node"

const demo = join(import.meta.dirname, "../../demo")
const output = process.argv[2] ?? join(import.meta.dirname, "../../out/first-run/adapter")

const base = await loadCausalLM(join(demo, "model"), { backend: await cpu() })
const model = adapt(base, lora({ r: 8, alpha: 16 }), { targetModules: "all-linear" })
const heldOut = await chat(join(demo, "held-out.jsonl"))
console.log("held-out loss before:", (await evaluate(model, heldOut)).loss.toFixed(3))
await train(model, chat(join(demo, "train.jsonl")), { maxSteps: 30, batchSize: 16, learningRate: 6e-3 })
console.log("held-out loss after: ", (await evaluate(model, heldOut)).loss.toFixed(3))
await saveAdapter(model, output)
console.log("adapter:", output)

/**
 * Trains as `peft train` would, on a WebGPU device that is destroyed after a step, and prints the error as JSON.
 * Arguments: model folder, data file, output folder, steps in all, the step after which the device is lost.
 */
import { mkdir } from "node:fs/promises"
import { join } from "node:path"
import { webgpu } from "@peftjs/backend-webgpu/node"
import { adapt } from "@peftjs/core"
import { lora } from "@peftjs/lora"
import { loadCausalLM } from "@peftjs/models/node"
import { adamw, train } from "@peftjs/train"
import { checkpointFolder, jsonlFile, metricsFile } from "@peftjs/train/node"

const [model = "", data = "", output = "", steps, lostAfter] = process.argv.slice(2)
const backend = await webgpu()
const base = await loadCausalLM(model, { backend, name: model })
const adapted = adapt(base, lora({ r: 4, alpha: 8 }), { targetModules: "all-linear", seed: 7 })
await mkdir(output, { recursive: true })
const record = await metricsFile(join(output, "metrics.jsonl"))
try {
  await train(adapted, await jsonlFile(data), {
    ...{ maxSteps: Number(steps), batchSize: 2, optimizer: adamw({ learningRate: 3e-3, weightDecay: 0 }), seed: 7 },
    ...{ checkpoints: checkpointFolder(join(output, "checkpoints")), snapshotSteps: 3 },
    async onStep(metrics) {
      await record(metrics)
      if (metrics.step === Number(lostAfter)) backend.destroy()
    },
  })
  console.error("the run ended as if nothing had happened")
  process.exitCode = 1
} catch (error) {
  const { code, message } = error as Error & { code?: string }
  console.log(JSON.stringify({ code, message }))
}
process.exit()

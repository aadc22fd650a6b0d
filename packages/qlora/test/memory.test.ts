/** What a matrix was quantised from, and in, goes when it is on the device. */
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { cpu } from "@peftjs/backend-cpu"
import type { WeightFormat } from "@peftjs/core"
import { expect, it } from "vitest"
import { int8, nf4 } from "../src/index.ts"
import { encoded } from "./helpers.ts"

setFlagsFromString("--expose-gc")
const collect = runInNewContext("gc") as () => void

async function arrayBytes(): Promise<number> {
  // What died in the running job is collected after it; a second collection finishes giving memory back.
  for (let i = 0; i < 2; i++) {
    await new Promise((done) => setTimeout(done))
    collect()
  }
  return process.memoryUsage().arrayBuffers
}

it.each<[string, WeightFormat, number]>([
  ["nf4", nf4({ doubleQuant: true }), 2 ** 19],
  ["int8", int8(), 2 ** 20],
])("%s", async (_, format, codeBytes) => {
  const backend = await cpu()
  const before = await arrayBytes()
  const values = new Float32Array(2 ** 20).map((_, i) => ((i * 7919) % 1009) / 1009)
  const weights = []
  for (let i = 0; i < 8; i++) weights.push(await encoded(format, values, [1024, 1024], { backend }))
  // The device's own memory is no array.
  expect((await arrayBytes()) - before).toBeLessThan(values.byteLength + codeBytes)
  for (const weight of weights) weight.free()
})

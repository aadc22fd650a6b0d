/**
 * `npm run bench:kernels`: our products beside tfjs's in Node and beside jax-js's and tfjs's in Chromium, each on one device in one run, and
 * what training steps ask of the device. Prints tables and writes bench/results/kernels-*.json. `--node` or `--chromium` runs that part alone.
 */
import { readFileSync } from "node:fs"
import { createRequire } from "node:module"
import { join } from "node:path"
import { webgpu } from "@peftjs/backend-webgpu/node"
import { loadCausalLM } from "@peftjs/models/node"
import { globals } from "webgpu"
import useSoftwareDriver from "../tests/vulkan.ts"
import { measureInChromium } from "./chromium.ts"
import {
  deviceName,
  isSteady,
  type MatmulRow,
  matmulShapes,
  matmulTable,
  measureMatmuls,
  measureSteps,
  ourMatmul,
  tfjsMatmul,
} from "./kernel-bench.ts"
import { resultFile, writeResult } from "./results.ts"

const root = join(import.meta.dirname, "..")
const only = process.argv.slice(2).find((flag) => flag === "--node" || flag === "--chromium")

if (only !== "--chromium") await inNode()
if (only !== "--node") await inChromium()
// Dawn and Vite leave handles open.
process.exit()

async function inNode(): Promise<void> {
  await useSoftwareDriver()
  const backend = await webgpu()
  const { info } = backend
  const base = await loadCausalLM(join(root, "demo", "model"), { backend })
  const steps = await measureSteps(base, backend.stats)
  console.log(`\nTraining steps in Node on ${deviceName(info)} (LoRA r 8 on the demo's model, 4 rows of 64 tokens)`)
  console.table(steps)
  const steady = isSteady(steps)
  console.log(`After step 2: ${steady ? "new buffers = 0, new pipelines = 0" : "STILL GROWING"}`)

  const tf = await tfjs()
  const products = await measureMatmuls([ourMatmul(backend), tfjsMatmul(tf)], matmulShapes, { onRow: progress })
  console.log(`\nProducts in Node on ${deviceName(info)}, medians; a ratio above 1: ours is faster`)
  console.table(matmulTable(products))
  writeResult(resultFile("kernels-node"), {
    ...{ device: deviceName(info), software: info.software },
    versions: versions("@tensorflow/tfjs-core", "webgpu"),
    ...{ products, steps, steady },
  })
  if (!steady) process.exitCode = 1
}

/** tfjs on the adapter that our backend opened: it asks a browser's navigator for one. */
async function tfjs(): Promise<typeof import("@tensorflow/tfjs-core")> {
  const dawn = (globalThis as unknown as Record<symbol, GPU>)[Symbol.for("peftjs.webgpu.dawn")]
  Object.assign(globalThis, globals)
  Object.defineProperty(globalThis, "navigator", { value: { gpu: dawn }, configurable: true })
  const tf = await import("@tensorflow/tfjs-core")
  await import("@tensorflow/tfjs-backend-webgpu")
  await tf.setBackend("webgpu")
  await tf.ready()
  return tf
}

async function inChromium(): Promise<void> {
  const { rows, device, software, browser } = await measureInChromium(matmulShapes)
  console.log(`\nProducts in Chromium ${browser} on ${device}, medians; a ratio above 1: ours is faster`)
  console.table(matmulTable(rows))
  const peers = versions("@jax-js/jax", "@tensorflow/tfjs-core")
  writeResult(resultFile("kernels-chromium"), { device, software, browser, versions: peers, products: rows })
}

function progress({ name, m, n, k, ratio }: MatmulRow): void {
  process.stderr.write(`${name} ${m}x${n}x${k}: ${JSON.stringify(ratio)}\n`)
}

function versions(...names: string[]): Record<string, string> {
  const { resolve } = createRequire(import.meta.url)
  return Object.fromEntries(
    names.map((name) => {
      const folder = resolve(name).slice(0, resolve(name).lastIndexOf(name) + name.length)
      return [name, (JSON.parse(readFileSync(join(folder, "package.json"), "utf8")) as { version: string }).version]
    }),
  )
}

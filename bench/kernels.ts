/**
 * `npm run bench:kernels`: our products beside tfjs's in Node and beside jax-js's and tfjs's in Chromium, each on one device in one run, and
 * what training steps ask of the device; and in WebAssembly on one thread beside tfjs's. Prints tables and writes
 * bench/results/kernels-*.json. `--node`, `--chromium` or `--cpu` runs that part alone.
 */
import { readFileSync } from "node:fs"
import { createRequire } from "node:module"
import { join } from "node:path"
import { cpu } from "@peftjs/backend-cpu/node"
import { webgpu } from "@peftjs/backend-webgpu/node"
import { loadCausalLM } from "@peftjs/models/node"
import { globals } from "webgpu"
import useSoftwareDriver from "../tests/vulkan.ts"
import { measureInChromium } from "./chromium.ts"
import {
  cpuShapes,
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
/** Of tfjs's time to ours on one thread. */
const slowest = 1
const parts = { "--cpu": onCpu, "--node": inNode, "--chromium": inChromium }
const only = process.argv.slice(2).find((flag) => flag in parts)

for (const [flag, part] of Object.entries(parts)) if (only === undefined || only === flag) await part()
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

/** Fails where tfjs is faster. */
async function onCpu(): Promise<void> {
  // Before tfjs: what an engine allows is settled with its first module.
  const backend = await cpu({ kernels: "wasm" })
  const tf = await import("@tensorflow/tfjs-core")
  await import("@tensorflow/tfjs-backend-wasm")
  await tf.setBackend("wasm")
  const products = await measureMatmuls([ourMatmul(backend), tfjsMatmul(tf, true)], cpuShapes, {
    ...{ rounds: 9, least: 200, onRow: progress },
  })
  console.log("\nProducts in WebAssembly on one thread, medians; a ratio above 1: ours is faster")
  console.table(matmulTable(products))
  const { relaxedSimd } = backend.info
  const peers = versions("@tensorflow/tfjs-core", "@tensorflow/tfjs-backend-wasm")
  writeResult(resultFile("kernels-cpu"), { relaxed_simd: relaxedSimd, versions: peers, products })
  if (products.some(({ ratio }) => (ratio.tfjs as number) < slowest)) process.exitCode = 1
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

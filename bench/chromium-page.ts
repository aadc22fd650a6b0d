/** The part of the kernel benchmark that runs in a page: our products beside jax-js's and tfjs's on the browser's own WebGPU. */
import * as jax from "@jax-js/jax"
import { webgpu } from "@peftjs/backend-webgpu"
import * as tf from "@tensorflow/tfjs-core"
import "@tensorflow/tfjs-backend-webgpu"
import {
  deviceName,
  jaxMatmul,
  type MatmulRow,
  type MatmulShape,
  measureMatmuls,
  ourMatmul,
  tfjsMatmul,
} from "./kernel-bench.ts"

export interface PageResult {
  readonly device: string
  readonly software: boolean
  readonly rows: readonly MatmulRow[]
}

async function measure(shapes: readonly MatmulShape[]): Promise<PageResult> {
  const backend = await webgpu()
  await jax.init("webgpu")
  jax.defaultDevice("webgpu")
  await tf.setBackend("webgpu")
  await tf.ready()
  const onRow = ({ name, m, n, k, ratio }: MatmulRow): void =>
    console.log(`${name} ${m}x${n}x${k}: ${JSON.stringify(ratio)}`)
  const rows = await measureMatmuls([ourMatmul(backend), jaxMatmul(jax), tfjsMatmul(tf)], shapes, { onRow })
  return { device: deviceName(backend.info), software: backend.info.software, rows }
}

Object.assign(globalThis, { measure })
